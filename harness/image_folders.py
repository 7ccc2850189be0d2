"""A folder of image files, read as they are: nothing resized, nothing cropped, nothing skipped."""

# N images, C channels, H height, W width

import os
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from harness.data import Labels, spread_evenly
from harness.errors import UserError, disk_error, first_few
from harness.folder import IMAGE_SUFFIXES, bytes_of
from harness.images import Pixels
from harness.prompted_images import Listed, by_prompts
from harness.stored_images import StoredImages

NAMED = 5
MODES = {"L": 1, "RGB": 3}
JPEG = (".jpg", ".jpeg", ".jpe")
READ = (".png", *JPEG)
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

Kind = tuple[str, int, int]


class FolderImages(StoredImages):
    """PNGs below a folder, in the natural order of their paths (2 before 10).

    Where all of them lie in two or more folders of the first level, these are their labels: unless they are prompts.
    """

    def __init__(self, place: Path, most: int | None = None) -> None:
        """Of all images, or of `most` that are spread evenly over them."""
        self.place = place
        listed = by_prompts(place, _list(place))
        paths = listed.images
        self._paths = paths if most is None else [paths[index] for index in spread_evenly(most, len(paths))]
        mode, H, W = self._one_kind()
        self.num_images = len(self._paths)
        self.shape = (MODES[mode], H, W)
        self.labels = None if listed.prompts else _labels([path.relative_to(place) for path in self._paths])
        self.notes = (*listed.notes, *_about_jpeg(self._paths), *_about_others(listed.others))

    @property
    def kind(self) -> Literal["folder", "npz"]:
        return "folder"

    def told(self) -> str:
        return names_and_sizes(self.place, self._paths)

    def close(self) -> None:
        """Nothing is kept open."""

    def read(self, start: int, stop: int) -> Pixels:
        pixels = np.empty((stop - start, *self.shape), np.uint8)
        broken = []
        for row, path in enumerate(self._paths[start:stop]):
            try:
                with Image.open(path) as file:
                    image = np.asarray(file).reshape(*self.shape[1:], -1)
                pixels[row] = image.transpose(2, 0, 1)
            except UNREADABLE:
                broken.append(path)
        if broken:
            raise self._unreadable(broken)
        return pixels

    def _one_kind(self) -> Kind:
        """(mode, H, W) of all files, by their headers."""
        kinds: dict[Kind, list[Path]] = defaultdict(list)
        broken = []
        for path in self._paths:
            try:
                with Image.open(path) as file:
                    kinds[file.mode, file.height, file.width].append(path)
            except UNREADABLE:
                broken.append(path)
        if broken:
            raise self._unreadable(broken)
        if len(kinds) > 1:
            raise UserError(f"images of more than one kind in {self.place}: {self._told(kinds)}", "make them equal")
        (mode, H, W) = next(iter(kinds))
        if mode not in MODES:
            raise UserError(
                f"the images in {self.place} are of the mode {mode}, such as {self._paths[0].name}",
                "store them as 8-bit RGB or grey PNG: what to do with other channels is yours to decide",
            )
        return mode, H, W

    def _told(self, kinds: dict[Kind, list[Path]]) -> str:
        """The most frequent kind with its number, the others with their first files."""
        usual, *others = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
        told = [f"{len(paths):,} of {_size(kind)} ({self._names(paths)})" for kind, paths in others]
        return f"{len(usual[1]):,} of {_size(usual[0])}, {first_few(told, NAMED)}"

    def _unreadable(self, broken: Sequence[Path]) -> UserError:
        return UserError(
            f"{len(broken):,} files in {self.place} hold no readable image: {self._names(broken)}",
            "make them again: images are never left out of an evaluation",
        )

    def _names(self, paths: Sequence[Path]) -> str:
        return first_few([str(path.relative_to(self.place)) for path in paths], NAMED)


def names_and_sizes(place: Path, paths: Sequence[Path]) -> str:
    """Of each file, relative to a folder."""
    return "\n".join(f"{path.relative_to(place)} {bytes_of(path)}" for path in paths)


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """A sorting key under which 2.png comes before 10.png."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def _list(place: Path) -> Listed:
    """The images in their order, and the other files.  Hidden ones are passed over."""
    images, others = [], []
    try:
        for folder, _, names in os.walk(place, onerror=_raise):
            files = [Path(folder, name) for name in names if not name.startswith(".")]
            images += [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
            others += [file for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]
    except OSError as error:
        raise disk_error(place, error) from error
    if not images:
        raise UserError(f"no images in {place}", "give a folder of PNGs, or an .npz file with arr_0")
    if strange := [file.name for file in images if file.suffix.lower() not in READ]:
        raise UserError(
            f"{place} holds images that are neither PNG nor JPEG: {first_few(sorted(strange), NAMED)}",
            "store them as PNG, or move them away",
        )
    return Listed(sorted(images, key=lambda file: natural_order(file.relative_to(place))), others)


def _raise(error: OSError) -> None:
    raise error


def _labels(paths: Sequence[Path]) -> Labels | None:
    folders = [path.parts[0] if len(path.parts) > 1 else "" for path in paths]
    names = sorted(set(folders), key=lambda name: natural_order(Path(name)))
    if "" in names or len(names) == 1:
        return None
    index = {name: label for label, name in enumerate(names)}
    return np.array([index[name] for name in folders], np.int64)


def _size(kind: Kind) -> str:
    mode, H, W = kind
    return f"{W} x {H} {mode}"


def _about_jpeg(paths: Sequence[Path]) -> tuple[str, ...]:
    count = sum(path.suffix.lower() in JPEG for path in paths)
    if not count:
        return ()
    return (f"{count:,} of {len(paths):,} images are JPEG, whose losses move every Fréchet distance: use PNG",)


def _about_others(others: Sequence[Path]) -> tuple[str, ...]:
    if not others:
        return ()
    return (f"{len(others):,} other files were passed over: {first_few(sorted(o.name for o in others), NAMED)}",)
