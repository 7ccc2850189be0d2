"""The images of a task, in memory or mapped from disk."""

# N batch, C channels, H height, W width

import gzip
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.captions import list_captioned
from harness.errors import UserError, first_few
from harness.files import read_array, release, write_array
from harness.folder import Listing, list_images, training_images
from harness.images import Pixels, read_pixels
from harness.progress import Progress, say
from harness.spec import Task
from harness.tasks import SHAPES_IMAGES
from harness.texts import first_caption

SHARD = 512
# Every mapped file takes one of the descriptors of the process, often 1,024 in all: more images make larger shards.
MOST_SHARDS = 256
UNREADABLE_SHARE = 100
NAMED = 5

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """All images of a task: shards of (n, C, H, W) in 0..255, (N,) labels, and what had to be left out."""

    shards: Sequence[Pixels]
    labels: Labels
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: npt.NDArray[np.int64]) -> Pixels:
        """The images of these indices, in their order."""
        starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        places = np.searchsorted(starts, indices, side="right") - 1
        return np.stack([self.shards[s][i - starts[s]] for s, i in zip(places, indices, strict=True)])

    def forget(self) -> None:
        """Give the pages of mapped images back to the system: a pass over many needs no more memory than over few."""
        for shard in self.shards:
            release(shard)


@dataclass(frozen=True)
class Drawn(Images):
    """Images that are drawn when they are asked for."""

    draw: Callable[[Labels], Pixels] = field(kw_only=True)

    def pixels(self, indices: Labels) -> Pixels:
        return self.draw(indices)


def load(task: Task, folder: Path | None, cache: Path) -> Images:
    """The images of a task.  Those of a folder are decoded once, into `cache`, and mapped from there.

    Raises UserError where the folder has changed since the run was resolved, or too much of it is unreadable.
    """
    if task.name in _EMBEDDED:
        return _EMBEDDED[task.name](task)
    assert folder is not None, f"task {task.name} was resolved without a folder"
    listing = _listing(task, folder)
    return _decode(listing, task, cache / f"{listing.fingerprint}-{task.channels}x{task.image_size}")


def load_few(task: Task, folder: Path | None, count: int) -> Images:
    """At most `count` images, spread evenly over the task's, decoded here and now: what probing needs, and no more.

    Raises UserError where one of them is unreadable.
    """
    if task.name in _EMBEDDED:
        return _EMBEDDED[task.name](task)
    assert folder is not None, f"task {task.name} was resolved without a folder"
    listing = _listing(task, folder)
    chosen = spread_evenly(count, len(listing.images))
    pixels = [read_one(listing.images[index][0], task.image_size, task.channels) for index in chosen]
    labels = np.array([listing.images[index][1] for index in chosen], np.int64)
    return Images([np.stack(pixels)], _numbered(task, labels))


def read_one(path: Path, side: int, channels: int) -> Pixels:
    """An image, (C, side, side) in 0..255, cropped as ADM does.  Raises UserError where it cannot be read."""
    image = _try_read(path, side, channels)
    if image is None:
        raise UserError(f"{path} holds no readable image", "repair or remove it")
    return image


def spread_evenly(count: int, total: int) -> Labels:
    """The indices of at most `count` images, spread evenly over all of them."""
    return np.linspace(0, total - 1, min(count, total)).astype(np.int64)


@lru_cache(maxsize=1)
def digits() -> Images:
    """The 1,797 handwritten digits of scikit-learn: 8 x 8, their 17 grey levels spread over 0..255.

    They are read from its files: importing it takes every process a second, most of it for pandas.
    """
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is one of our dependencies"
    assert package.origin is not None, "it is a folder with files"
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    greys, labels = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1]
    return Images([np.round(greys * (255 / 16)).astype(np.uint8)], labels.astype(np.int64))


def _shapes(task: Task) -> Images:
    from harness.shapes.drawing import DrawnImages

    drawn = DrawnImages(task.image_size, SHAPES_IMAGES)
    return Drawn((), _numbered(task, drawn.labels), draw=drawn.pixels)


# The tasks that bring their own images.
_EMBEDDED: Mapping[str, Callable[[Task], Images]] = {"digits": lambda _: digits(), "shapes-t2i": _shapes}


def _listing(task: Task, folder: Path) -> Listing:
    listing = _LISTINGS.get(task.name, _of_split)(folder)
    if listing.fingerprint != task.data_fingerprint:
        raise UserError(f"{folder} changed while the run was being prepared", "run the command again when it is still")
    return listing


def _numbered(task: Task, labels: Labels) -> Labels:
    """Classes as they are, captions by the numbers of their prompts."""
    return labels + first_caption(task) if task.prompts else labels


def _of_split(folder: Path) -> Listing:
    return list_images(training_images(folder))


# What lies in a folder, where it is not ImageNet's.
_LISTINGS: Mapping[str, Callable[[Path], Listing]] = {"folder": list_images, "t2i": list_captioned}


def _decode(listing: Listing, task: Task, cache: Path) -> Images:
    """Decode in shards, each put in place whole: an interrupted decoding goes on, two at once do no harm."""
    shards, kept, broken = [], [], []
    with Progress("reading images", len(listing.images)) as progress:
        size = max(SHARD, -(-len(listing.images) // MOST_SHARDS))
        for start in range(0, len(listing.images), size):
            part = listing.images[start : start + size]
            pixels, flags = cache / f"{start:09d}-pixels.npy", cache / f"{start:09d}-readable.npy"
            if not (pixels.exists() and flags.exists()):
                _decode_shard(part, task, pixels, flags)
            shards.append(read_array(pixels, mapped=True))
            readable = read_array(flags)
            kept += [label for (_, label), good in zip(part, readable, strict=True) if good]
            broken += [path for (path, _), good in zip(part, readable, strict=True) if not good]
            _judge(listing, broken)
            progress.advance(len(part))
    if empty := sorted(set(range(len(listing.classes))) - set(kept)):
        raise UserError(
            f"no readable image in the class {listing.classes[empty[0]]} of {listing.root}: {_names(listing, broken)}",
            "repair its images or remove its folder",
        )
    notes = _left_out(listing, broken)
    for note in notes:
        say(note)
    return Images(shards, _numbered(task, np.array(kept, dtype=np.int64)), notes)


def _decode_shard(part: Sequence[tuple[Path, int]], task: Task, pixels: Path, flags: Path) -> None:
    """Write the readable images of a shard, then, as the sign that it is whole, which of them were readable."""
    decoded = [_try_read(path, task.image_size, task.channels) for path, _ in part]
    shape = (-1, task.channels, task.image_size, task.image_size)
    write_array(pixels, np.array([image for image in decoded if image is not None], np.uint8).reshape(shape))
    write_array(flags, np.array([image is not None for image in decoded]))


def _try_read(path: Path, side: int, channels: int) -> Pixels | None:
    try:
        return read_pixels(path, side, channels)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError):
        return None


def _judge(listing: Listing, broken: Sequence[Path]) -> None:
    """One unreadable image, or one in a hundred, is left out; more are an error that names them."""
    if len(broken) > max(1, len(listing.images) // UNREADABLE_SHARE):
        raise UserError(
            f"{len(broken)} of the {len(listing.images)} files in {listing.root} hold no readable image: "
            f"{_names(listing, broken)}",
            "repair or remove them; up to one in a hundred would be left out and named",
        )


def _left_out(listing: Listing, broken: Sequence[Path]) -> tuple[str, ...]:
    if not broken:
        return ()
    return (f"left out {len(broken)} unreadable of {len(listing.images)} images: {_names(listing, broken)}",)


def _names(listing: Listing, paths: Sequence[Path]) -> str:
    return first_few([str(path.relative_to(listing.root)) for path in paths], NAMED)
