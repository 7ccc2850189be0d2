"""The moments of a task's images: computed once, then mapped from disk."""

# N images asked for, n images of a shard, V views of an image (as it is, and mirrored)
# M channels of moments, h and w their height and width

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harness.codec import Codec
from harness.data import Images
from harness.errors import UserError
from harness.files import read_array, write_array, write_text
from harness.images import Values, to_unit
from harness.progress import Progress, say
from harness.shared_work import make_missing
from harness.spec import Task

LAYOUT = 1
SHARD = 512
# Every mapped file takes one of the descriptors of the process, often 1,024 in all: more images make larger shards.
MOST_SHARDS = 256
BYTES = np.dtype(np.float32).itemsize
MEGABYTE = 10**6


@dataclass(frozen=True)
class Moments:
    """The moments of all images, mapped from disk: shards of (n, V, M, h, w), all but the last of one size."""

    shards: Sequence[Values]

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def of(self, indices: npt.NDArray[np.int64], flipped: npt.NDArray[np.bool_]) -> Values:
        """The moments of these images, mirrored where `flipped`, in their order: (N, M, h, w)."""
        assert self.shards[0].shape[1] == 2 or not flipped.any(), "mirrored moments of a task that mirrors nothing"
        size = len(self.shards[0])
        places = zip(indices // size, indices % size, flipped.astype(np.int64), strict=True)
        return np.stack([self.shards[s][i, view] for s, i, view in places])


def moments_of(images: Images, task: Task, codec: Codec, folder: Path, batch_size: int) -> Moments:
    """The moments of all images, computed on the codec's device unless they are in `folder` already.

    Each shard is put in place whole: an interrupted encoding goes on, and several processes share the work.  At most
    `batch_size` images at once go to the device; on a CPU the numbers do not depend on it.

    Moments are kept as float32.  float16 would halve the disk, but at a mean of 5 its error is up to 0.002, and a VAE
    whose KL term has the weight 1e-6, as Stable Diffusion's, may have a posterior as narrow as that.  An image of
    256 x 256 takes 32 KiB under that VAE, twice that where the task mirrors images: as in DiT's training it is the
    image that is mirrored, not its latent.

    Raises UserError where a shard is damaged, the disk is full, or the codec gives values that are no numbers.
    """
    assert task.data_fingerprint, "images without a fingerprint cannot be told from others"
    encoding = _Encoding(images, task, codec, batch_size)
    place = folder / encoding.digest
    shards = encoding.shards(place)
    if missing := [shard for shard in shards if not shard.is_there()]:
        _announce(encoding, place, missing)
        done = len(images) - sum(len(shard) for shard in missing)
        with Progress("encoding images", len(images), done) as progress:
            make_missing(place, missing, lambda shard: encoding.make(shard, progress), progress, "images")
    return Moments([shard.read() for shard in shards])


@dataclass(frozen=True)
class _Shard:
    """The images start .. stop - 1, as an array of `shape` in `file`."""

    index: int
    start: int
    stop: int
    shape: tuple[int, ...]
    file: Path

    def __len__(self) -> int:
        return self.stop - self.start

    def is_there(self) -> bool:
        """Whether it has been made; raises UserError where it is damaged."""
        if not self.file.exists():
            return False
        self.read()
        return True

    def read(self) -> Values:
        array: Values = read_array(self.file, mapped=True)
        if array.shape != self.shape or array.dtype != np.float32:
            raise UserError(
                f"{self.file} is damaged: it holds {array.dtype} {array.shape}, not float32 {self.shape}",
                "delete it: the same command makes it again",
            )
        return array


@dataclass(frozen=True)
class _Encoding:
    """Which images become moments, and how."""

    images: Images
    task: Task
    codec: Codec
    batch_size: int

    @property
    def views(self) -> int:
        return 2 if self.task.horizontal_flip else 1

    @property
    def about(self) -> dict[str, Any]:
        """All that decides the numbers."""
        return {
            "layout": LAYOUT,
            "codec": self.codec.identity,
            "weights_sha256": self.codec.weights_sha256,
            "data": self.task.data_fingerprint,
            "task": self.task.name,
            "images": len(self.images),
            "channels": self.task.channels,
            "image_size": self.task.image_size,
            "views": self.views,
            "moments_shape": self.codec.moments_shape,
        }

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:16]

    def bytes_of(self, shards: Sequence[_Shard]) -> int:
        return sum(int(np.prod(shard.shape)) for shard in shards) * BYTES

    def shards(self, place: Path) -> list[_Shard]:
        count = len(self.images)
        size = max(SHARD, -(-count // MOST_SHARDS))
        starts = range(0, count, size)
        return [
            _Shard(
                index,
                start,
                stop := min(start + size, count),
                (stop - start, self.views, *self.codec.moments_shape),
                place / f"{start:09d}.npy",
            )
            for index, start in enumerate(starts)
        ]

    def make(self, shard: _Shard, progress: Progress) -> None:
        """Put the moments of one shard in place.  Raises UserError where they are no numbers."""
        array = np.empty(shard.shape, np.float32)
        for start in range(shard.start, shard.stop, self.batch_size):
            stop = min(start + self.batch_size, shard.stop)
            data = to_unit(self.images.pixels(np.arange(start, stop)))
            rows = array[start - shard.start : stop - shard.start]
            for view in range(self.views):
                seen = np.ascontiguousarray(data[..., ::-1] if view else data)
                rows[:, view] = self.codec.moments(torch.from_numpy(seen).to(self.codec.device)).cpu().numpy()
            if not np.isfinite(rows).all():
                raise UserError(
                    f"the latents of some of the images {start} to {stop - 1} are no numbers",
                    "choose other weights (--set latents.weights=...): these are damaged, or not for such images",
                )
            progress.advance(stop - start)
        write_array(shard.file, array)


def _announce(encoding: _Encoding, place: Path, missing: Sequence[_Shard]) -> None:
    """Say what is about to be done, and leave beside the shards what they are."""
    left = sum(len(shard) for shard in missing)
    size = encoding.bytes_of(missing) / MEGABYTE
    say(f"encoding {left} of {len(encoding.images)} images, once: {size:,.1f} MB in {place}")
    write_text(place / "about.json", json.dumps(encoding.about, indent=1) + "\n")
