"""Images that anybody's code made: a folder of PNGs or ADM's array file, read piece by piece and looked through."""

# N images, C channels, H height, W width

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.data import Labels
from harness.errors import UserError
from harness.evaluation_records import ImageSet
from harness.image_arrays import ArrayImages
from harness.image_folders import FolderImages
from harness.images import Pixels
from harness.progress import Progress
from harness.stored_images import StoredImages, chunks

DIGEST_BYTES = 32

Digests = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Expected:
    """What the person who has images judged says of them; None for what they do not say."""

    images: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Survey:
    """What one pass over N images found: the record's ImageSet, and each image's own digest (N, 32) in their order.

    `classes_are_complete` says that somebody expected as many classes as there are.
    """

    images: ImageSet
    digests: Digests = field(repr=False)
    labels: Labels | None = field(repr=False)
    labels_are_classes: bool
    notes: tuple[str, ...] = ()
    classes_are_complete: bool = False

    @property
    def class_counts(self) -> tuple[int, ...] | None:
        """Images of each class, or of each folder; a number that no image has is no class where they are complete."""
        counts = self.images.class_counts
        return tuple(filter(None, counts)) if counts and self.classes_are_complete else counts

    @property
    def is_balanced(self) -> bool | None:
        """Whether every class has as many images as any other; None where that cannot be seen.

        Equal counts say nothing of one class alone, nor of classes of which others may be missing.
        """
        counts = self.class_counts
        if counts is None or not self.labels_are_classes:
            return None
        if len(set(counts)) > 1:
            return False
        return True if self.classes_are_complete and len(counts) > 1 else None


def open_images(place: Path) -> StoredImages:
    """The images of a folder (PNG, or JPEG with a note), of an `.npz` with arr_0, or of an `.npy`.

    Raises UserError where there are none, they differ in size, or an array is not of bytes.
    """
    if place.is_dir():
        return FolderImages(place)
    if not place.exists():
        raise UserError(f"there are no images at {place}: it does not exist", "give a folder of PNGs, or an .npz file")
    if place.suffix not in (".npz", ".npy"):
        raise UserError(f"{place} is neither a folder nor an .npz or .npy file", "give a folder of PNGs, or an .npz")
    return ArrayImages(place)


def survey(stored: StoredImages) -> Survey:
    """Read every image once: digests, pixel range, duplicates, classes.  Raises UserError where one is unreadable."""
    N, (C, H, W) = stored.num_images, stored.shape
    digests = np.empty((N, DIGEST_BYTES), np.uint8)
    least, greatest = 255, 0
    with Progress("looking through images", N) as progress:
        for start, stop in chunks(N):
            pixels = stored.read(start, stop)
            digests[start:stop] = image_digests(pixels)
            least, greatest = min(least, int(pixels.min())), max(greatest, int(pixels.max()))
            progress.advance(stop - start)
    counts = None if stored.labels is None else tuple(np.bincount(stored.labels).tolist())
    found = ImageSet(
        name=stored.place.name,
        kind=stored.kind,
        sha256=set_digest(digests),
        num_images=N,
        channels=C,
        height=H,
        width=W,
        least_pixel=least,
        greatest_pixel=greatest,
        duplicates=N - len(np.unique(digests, axis=0)),
        class_counts=counts,
    )
    return Survey(found, digests, stored.labels, stored.labels_are_classes, stored.notes)


def require_plausible(found: Survey, expected: Expected) -> Survey:
    """The survey with what is odd about the images among its notes.

    Raises UserError for images that nobody can want judged: unscaled ones, or others than `expected`.
    """
    images = found.images
    if images.greatest_pixel <= 1 or images.least_pixel == images.greatest_pixel:
        raise UserError(
            f"all pixels of {images.name} lie between {images.least_pixel} and {images.greatest_pixel}: "
            "the images are probably unscaled",
            "multiply them by 255 before they are stored as bytes",
        )
    _require_number(images, expected)
    if expected.classes is not None:
        found = replace(found, labels_are_classes=True, classes_are_complete=True)
    return with_oddities(found)


def with_oddities(found: Survey) -> Survey:
    """The survey with what is odd about the images among its notes: duplicates, classes that are not balanced."""
    return replace(found, notes=(*found.notes, *_oddities(found)))


def image_digests(pixels_NCHW: Pixels) -> Digests:
    """SHA-256 of each image's pixels, channel by channel, (N, 32)."""
    each = [hashlib.sha256(image.tobytes()).digest() for image in pixels_NCHW]
    return np.frombuffer(b"".join(each), np.uint8).reshape(-1, DIGEST_BYTES)


def set_digest(digests_ND: Digests) -> str:
    """The digest of a set of images, whatever their order: that of their sorted digests."""
    return hashlib.sha256(b"".join(sorted(row.tobytes() for row in digests_ND))).hexdigest()


def _require_number(images: ImageSet, expected: Expected) -> None:
    if expected.images is not None and images.num_images != expected.images:
        raise UserError(
            f"{images.name} holds {images.num_images:,} images, and {expected.images:,} are expected",
            "complete the set: a distance at another number of images compares with nothing",
        )
    classes = sum(count > 0 for count in images.class_counts or ())
    if expected.classes is not None and classes != expected.classes:
        raise UserError(
            f"{images.name} shows {classes or 'no'} classes, and {expected.classes:,} are expected",
            "put the images into one folder per class, or store their `labels` in the .npz",
        )


def _oddities(found: Survey) -> Iterator[str]:
    images, counts = found.images, found.class_counts
    if images.duplicates:
        yield f"{images.duplicates:,} of {images.num_images:,} images equal an earlier one pixel by pixel"
    if counts is None or len(set(counts)) == 1:
        return
    each = f"{min(counts):,} to {max(counts):,} images each"
    if found.labels_are_classes:
        yield f"classes are not balanced: {each}, in {len(counts):,} classes"
    else:
        yield f"{len(counts):,} folders of {each} are not taken for classes: --expect-classes says that they are"
