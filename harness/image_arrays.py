"""ADM's array file of images, or one bare array, read piece by piece and without pickle."""

# N images, C channels, H height, W width

import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from harness.data import Labels
from harness.errors import UserError, disk_error
from harness.images import Pixels
from harness.stored_images import StoredImages

IMAGES, LABELS = "arr_0", ("labels", "arr_1")
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError)


class ArrayImages(StoredImages):
    """Bytes (N, H, W, C) or (N, H, W): `arr_0` of an `.npz`, with `labels` or `arr_1` where they are, or an `.npy`."""

    def __init__(self, place: Path, name: str = IMAGES) -> None:
        self.place = place
        self._name = name
        self._zip: zipfile.ZipFile | None = None
        self._file = self._open()
        shape = _header(place, self._file)
        self._first = self._file.tell()
        self.num_images, H, W, C = shape
        self.shape = (C, H, W)
        self.labels = None if self._zip is None else _labels(place, self._zip, self.num_images)
        self.labels_are_classes = self.labels is not None

    @property
    def kind(self) -> Literal["folder", "npz"]:
        return "npz"

    def read(self, start: int, stop: int) -> Pixels:
        C, H, W = self.shape
        place, size = self._first + start * C * H * W, (stop - start) * C * H * W
        try:
            # A zip member that is sought in is no longer checked against its checksum.
            if self._file.tell() != place:
                self._file.seek(place)
            content = self._file.read(size)
        except OSError as error:
            raise disk_error(self.place, error) from error
        except DAMAGED as error:
            raise _damaged(self.place, error) from error
        if len(content) != size:
            raise _damaged(self.place, "it ends too early")
        pixels_NHWC = np.frombuffer(content, np.uint8).reshape(-1, H, W, C)
        return np.ascontiguousarray(pixels_NHWC.transpose(0, 3, 1, 2))

    def told(self) -> str:
        return f"{self.place.name} {self.place.stat().st_size}"

    def close(self) -> None:
        self._file.close()
        if self._zip is not None:
            self._zip.close()

    def _open(self) -> IO[bytes]:
        if self.place.suffix == ".npy":
            try:
                return self.place.open("rb")
            except OSError as error:
                raise disk_error(self.place, error) from error
        self._zip = open_zip(self.place)
        held = [name.removesuffix(".npy") for name in self._zip.namelist()]
        if self._name not in held:
            raise UserError(
                f"{self.place} holds no {self._name}, but {', '.join(held) or 'nothing'}",
                "store the images as `numpy.savez(file, images)`: bytes of (N, H, W, 3)",
            )
        return self._zip.open(f"{self._name}.npy")


def open_zip(place: Path) -> zipfile.ZipFile:
    """An `.npz` file.  Raises UserError where it is none."""
    try:
        return zipfile.ZipFile(place)
    except OSError as error:
        raise disk_error(place, error) from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{place} is no .npz file: {error}", "write it again with numpy.savez") from error


def _header(place: Path, file: IO[bytes]) -> tuple[int, int, int, int]:
    """(N, H, W, C); the file then stands at the first pixel."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except DAMAGED as error:
        raise _damaged(place, error) from error
    if dtype.hasobject:
        raise UserError(
            f"the array in {place} is pickled objects: reading them would run whatever code is in the file",
            "store the images as one array of bytes, dtype uint8",
        )
    if dtype != np.uint8:
        raise UserError(
            f"the images in {place} are {dtype}, not bytes",
            "scale them to 0..255 and round: how that is done moves a Fréchet distance, so it is yours to decide",
        )
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if not fits or by_columns or 0 in shape:
        raise UserError(
            f"the array in {place} has the shape {shape}{' by columns' if by_columns else ''}",
            "store at least one image, as (N, H, W, 3), or (N, H, W) for grey ones",
        )
    N, H, W, C = (*shape, 1) if len(shape) == 3 else shape
    return N, H, W, C


def _labels(place: Path, archive: zipfile.ZipFile, num_images: int) -> Labels | None:
    name = next((name for name in LABELS if f"{name}.npy" in archive.namelist()), None)
    if name is None:
        return None
    try:
        with archive.open(f"{name}.npy") as file:
            labels: Any = np.lib.format.read_array(file, allow_pickle=False)
    except DAMAGED as error:
        raise UserError(f"`{name}` in {place} cannot be read: {error}", "store whole numbers, one per image") from error
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UserError(
            f"`{name}` in {place} has the shape {labels.shape} and the type {labels.dtype}",
            f"store {num_images:,} whole numbers from 0, or none",
        )
    whole: Labels = labels.astype(np.int64)
    return whole


def _damaged(place: Path, why: object) -> UserError:
    return UserError(f"{place} is damaged: {why}", "write it again")
