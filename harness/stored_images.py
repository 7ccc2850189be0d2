"""The seam between images that lie on a disk and whoever reads them: one size, a fixed order, piece by piece."""

# N images, C channels, H height, W width

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from harness.data import Labels
from harness.images import Pixels

CHUNK = 500


class StoredImages(ABC):
    """N images of one size on a disk, in a fixed order.  `with` closes what they are read from.

    `shape` is (C, H, W).  `labels` are the classes (N,), None where none is known; `labels_are_classes` says whether
    they were stored as such, or are no more than the folders that the files lie in.
    """

    place: Path
    num_images: int
    shape: tuple[int, int, int]
    labels: Labels | None = None
    labels_are_classes = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def read(self, start: int, stop: int) -> Pixels:
        """The images from `start` to before `stop`, (n, C, H, W) in 0..255.

        An array file is read forward, fastest where `start` is the last `stop`.  Raises UserError for a damaged image.
        """

    @property
    @abstractmethod
    def kind(self) -> Literal["folder", "npz"]:
        """What a record calls it."""

    @abstractmethod
    def told(self) -> str:
        """What changes when an image is added, removed, renamed, or changes its size in bytes."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def chunks(num_images: int, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive pieces."""
    for start in range(0, num_images, size):
        yield start, min(start + size, num_images)
