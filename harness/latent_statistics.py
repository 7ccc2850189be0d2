"""Mean and variance of an encoder's latents: gathered in one pass, kept with the encoder that they belong to."""

# N batch, C channels of a latent, h and w its height and width, L tokens
# K channels of an image, H its height, W its width

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from harness.data import Images
from harness.errors import UserError, first_few
from harness.files import write_bytes
from harness.frozen import Frozen, NonNegativeInt
from harness.progress import Progress
from harness.weights import SHOWN_KEYS, read_tensors

BATCH = 64
SECONDS_BETWEEN = 30.0
ABOUT = "about"
MEAN, VARIANCE = "mean", "var"
FETCH = "fetch or compute the statistics anew"


class Origin(Frozen):
    """What statistics are of: the digest of an encoder's exact configuration, the data's fingerprint, how many."""

    encoder: str
    data: str
    count: NonNegativeInt


@dataclass(frozen=True)
class LatentStatistics:
    """Population statistics in float64: (C, h, w) per channel and position, or (C,) of latents that are tokens."""

    mean: Tensor
    variance: Tensor
    origin: Origin


class LatentMoments:
    """Statistics of latents that arrive in batches, in float64; memory does not grow with their number.

    Of grids, (N, C, h, w), per channel and position over images; of (N, C, L), per channel over images and positions.
    Batches are merged by their means and sums of squared deviations, `squares` (Chan et al.): no large mean cancels.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)

    @property
    def variance(self) -> Tensor:
        """Over all that were seen, not one less."""
        assert self.count, "statistics of nothing"
        return self.squares / self.count

    def add(self, latents: Tensor) -> None:
        """Take in a batch; its device is where the statistics stay."""
        assert latents.ndim in (3, 4), f"latents of {latents.ndim} dimensions"
        over = (0,) if latents.ndim == 4 else (0, 2)
        values = latents.detach().double()
        batch = LatentMoments()
        batch.count = len(values) if latents.ndim == 4 else len(values) * values.shape[2]
        mean = values.mean(over, keepdim=True)
        batch.mean = values.mean(over)
        batch.squares = (values - mean).square().sum(over)
        self.merge(batch)

    def merge(self, other: "LatentMoments") -> None:
        """Take in what another has seen."""
        if other.count == 0:
            return
        total = self.count + other.count
        difference = other.mean - self.mean.to(other.mean)
        share = other.count / total
        self.squares = self.squares.to(other.mean) + other.squares + difference.square() * (self.count * share)
        self.mean = self.mean.to(other.mean) + difference * share
        self.count = total

    def statistics(self, encoder: str, data: str) -> LatentStatistics:
        """All that was seen, and of what it is."""
        return LatentStatistics(
            self.mean.cpu(), self.variance.cpu(), Origin(encoder=encoder, data=data, count=self.count)
        )


@torch.no_grad()
def gather(
    encode: Callable[[Tensor], Tensor], images: Images, partial: Path, device: torch.device, *, mirrored: bool = False
) -> LatentMoments:
    """The moments of all images' latents, in one pass; `mirrored`, each image counts twice, as it is and mirrored.

    `encode` gives latents before whitening of images, (N, K, H, W) in [0, 1].  What has been gathered is kept in
    `partial` every half minute: a pass that was killed goes on from there, to the same bytes.
    """
    moments, done = _resumed(partial)
    kept = time.monotonic()
    with Progress("gathering statistics", len(images), done) as progress:
        for start in range(done, len(images), BATCH):
            indices = np.arange(start, min(start + BATCH, len(images)))
            images_NKHW = torch.from_numpy(images.pixels(indices)).to(device) / 255
            moments.add(encode(images_NKHW))
            if mirrored:
                moments.add(encode(images_NKHW.flip(-1)))
            images.forget()
            progress.advance(len(indices))
            if time.monotonic() - kept > SECONDS_BETWEEN:
                _keep(partial, moments, start + len(indices))
                kept = time.monotonic()
    return moments


def write_statistics(path: Path, statistics: LatentStatistics) -> None:
    """Keep statistics with what they are of.  Raises UserError where the disk does not take them."""
    tensors = {MEAN: statistics.mean.contiguous(), VARIANCE: statistics.variance.contiguous()}
    # One entry: safetensors writes several in any order, and the same statistics would be other bytes.
    about = {ABOUT: statistics.origin.model_dump_json()}
    write_bytes(path, save(tensors, metadata=about))


def read_statistics(path: Path, encoder: str) -> LatentStatistics:
    """What `write_statistics` kept.

    Raises UserError where the file is missing or damaged, or its statistics are of another encoder than this digest's.
    """
    mean, variance = _read_pair(path)
    origin = _read_origin(path)
    if origin.encoder != encoder:
        raise UserError(
            f"the statistics {path} are of the encoder {origin.encoder}, not of {encoder}",
            "compute them for this encoder: latents are whitened with their own statistics or not at all",
        )
    return LatentStatistics(mean.double(), variance.double(), origin)


def read_official_statistics(path: Path, shape: tuple[int, ...], encoder: str) -> LatentStatistics:
    """The statistics in a file of RAE or DSR, which names no encoder: the caller declares the digest of theirs.

    `shape` is that of one latent, (C, h, w); (C, 1, 1) also fits it.  A missing mean is 0, a missing variance 1.
    Raises UserError where the file is damaged, holds anything else, or another shape.
    """
    mean, variance = _read_pair(path)
    if tuple(mean.shape) not in (shape, (shape[0], 1, 1)):
        raise UserError(
            f"the statistics {path} have the shape {tuple(mean.shape)}, latents of this encoder {shape}",
            "name the encoder that they were computed for",
        )
    return LatentStatistics(mean.double(), variance.double(), Origin(encoder=encoder, data="", count=0))


def _keep(partial: Path, moments: LatentMoments, done: int) -> None:
    counts = torch.tensor([moments.count, done])
    write_bytes(partial, save({"counts": counts, "mean": moments.mean.cpu(), "squares": moments.squares.cpu()}))


def _resumed(partial: Path) -> tuple[LatentMoments, int]:
    """What a pass has gathered so far, and of how many images."""
    moments = LatentMoments()
    if not partial.exists():
        return moments, 0
    content = read_tensors(partial)
    moments.count, done = content["counts"].tolist()
    moments.mean, moments.squares = content["mean"], content["squares"]
    return moments, done


def _read_pair(path: Path) -> tuple[Tensor, Tensor]:
    """Mean and variance, nothing else, of one shape and with values that can be."""
    content = read_tensors(path)
    keys = [str(key) for key in content] if isinstance(content, dict) else []
    if not {MEAN, VARIANCE} >= set(keys) > set() or not all(isinstance(content[key], Tensor) for key in keys):
        found = first_few(keys, SHOWN_KEYS) or "none"
        raise UserError(
            f"{path} holds no statistics of latents: its entries are {found}, not {MEAN} and {VARIANCE}", FETCH
        )
    # RAE's own rule for a file with one of the two.
    mean = content[MEAN] if MEAN in keys else torch.zeros_like(content[VARIANCE])
    variance = content[VARIANCE] if VARIANCE in keys else torch.ones_like(mean)
    if mean.shape != variance.shape:
        raise UserError(f"{path}: the mean is {tuple(mean.shape)}, the variance {tuple(variance.shape)}", FETCH)
    if not (mean.isfinite().all() and variance.isfinite().all() and (variance >= 0).all()):
        raise UserError(f"{path} holds values that no mean or variance has", FETCH)
    return mean, variance


def _read_origin(path: Path) -> Origin:
    if path.suffix != ".safetensors":
        raise _no_origin(path)
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    if ABOUT not in about:
        raise _no_origin(path)
    try:
        return Origin.model_validate_json(about[ABOUT])
    except ValidationError as error:
        raise UserError(f"{path} is damaged: it does not say what its statistics are of", FETCH) from error


def _no_origin(path: Path) -> UserError:
    return UserError(
        f"the statistics {path} do not say which encoder they are of",
        "import an official file under the encoder that it was computed for, or compute them",
    )
