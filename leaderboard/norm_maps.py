"""The token norms of a few images, from the file beside a record, and pictures of them.

N images of height H and width W with C channels, T noise levels, B blocks, L patches, R registers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from harness.errors import UserError
from harness.norm_map_records import SAID, NormMapsSaid

_DIMENSIONS: Final = {"images": 4, "times": 1, "patches": 4, "registers": 4}

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CELL = 160
GAP = 12
BAR = (480, 16)

# Cividis, which reads the same to nearly everyone (Nunez, Anderton and Renslow, arXiv 1712.01662): at equal steps.
_CIVIDIS: Final = ["00204d", "00336f", "39486b", "575d6d", "707173", "8a8779", "a69d75", "c4b56c", "e4cf5b", "ffea46"]
_STOPS: Final = np.array([[int(colour[at : at + 2], 16) for at in (0, 2, 4)] for colour in _CIVIDIS], dtype=np.float32)
_GREY: Final = (138, 138, 138)


@dataclass(frozen=True)
class NormMaps:
    """Norms in units of the median patch of their image, after each block at each noise level.

    `registers_NTBR` has R = 0 without registers, and NaN after blocks that have none yet.  `blocks` are the numbers of
    the B blocks: a deep network's are not all kept.
    """

    images_NHWC: Bytes
    times_T: Floats
    patches_NTBL: Floats
    registers_NTBR: Floats
    blocks: tuple[int, ...]

    @property
    def times(self) -> list[str]:
        """The noise levels as they are written; 0 is noise, 1 data."""
        return [f"{time:.3g}" for time in self.times_T]

    def at(self, time: str, block: int) -> list[Floats]:
        """The map of each image, rows by columns, after a block at one of `times`."""
        norms_NL = self.patches_NTBL[:, self.times.index(time), self.blocks.index(block)]
        rows = _rows(norms_NL.shape[1], self.images_NHWC.shape[1], self.images_NHWC.shape[2])
        return [norms_L.reshape(rows, -1) for norms_L in norms_NL]

    def registers_at(self, time: str, block: int) -> list[float] | None:
        """The norm of each register there, mean over images; None where that block has none."""
        norms_NR = self.registers_NTBR[:, self.times.index(time), self.blocks.index(block)]
        if norms_NR.shape[1] == 0 or np.isnan(norms_NR).all():
            return None
        return [float(norm) for norm in norms_NR.mean(axis=0)]

    def largest_place(self) -> tuple[str, int]:
        """The noise level and the block at which some patch is furthest above the median of its image."""
        most_TB = np.nan_to_num(self.patches_NTBL, nan=0.0, posinf=0.0).max(axis=(0, 3))
        time, block = np.unravel_index(int(most_TB.argmax()), most_TB.shape)
        return self.times[int(time)], self.blocks[int(block)]


def read(path: Path) -> NormMaps:
    """The file of one record.  Raises UserError where it is missing or damaged, or is not what it should be."""
    remedy = "put back the file that came with its record"
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            said = NormMapsSaid.model_validate_json((file.metadata() or {}).get(SAID, ""))
    except (OSError, SafetensorError, ValidationError) as error:
        raise UserError(f"{path.name} cannot be read", remedy) from error
    if not _fits(found) or len(said.blocks) != found["patches"].shape[2]:
        raise UserError(f"{path.name} has not the arrays of norm maps", remedy)
    times, patches, registers = (found[name].astype(np.float32) for name in ("times", "patches", "registers"))
    return NormMaps(found["images"], times, patches, registers, said.blocks)


def strip_of_images(maps: NormMaps) -> Image.Image:
    """The images side by side."""
    pictures = [image[..., 0] if image.shape[2] == 1 else image for image in maps.images_NHWC]
    return _strip([Image.fromarray(picture).convert("RGB") for picture in pictures])


def strip_of_norms(norms: Sequence[Floats], top: float) -> Image.Image:
    """Maps side by side, one colour scale from 0 medians to `top` for all; grey is what is not finite."""
    return _strip([Image.fromarray(_coloured(each / top)) for each in norms])


def colour_bar() -> Image.Image:
    """The colour scale from its bottom to its top."""
    width, height = BAR
    return Image.fromarray(_coloured(np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))))


def _fits(found: dict[str, npt.NDArray[Any]]) -> bool:
    """Whether there are the four arrays, of the same images, noise levels and blocks, and something in them."""
    if {name: found[name].ndim for name in _DIMENSIONS if name in found} != _DIMENSIONS:
        return False
    images, patches = found["images"], found["patches"]
    return (
        images.dtype == np.uint8
        and images.shape[3] in (1, 3)
        and patches.shape[:2] == (len(images), len(found["times"]))
        and patches.shape[:3] == found["registers"].shape[:3]
        and bool(images.size and patches.size)
    )


def _rows(patches: int, height: int, width: int) -> int:
    """How many rows of patches there are: as the image is shaped, or one where that does not go."""
    rows = math.isqrt(patches * height // width)
    return rows if rows and patches % rows == 0 else 1


def _coloured(share: npt.NDArray[Any]) -> Bytes:
    """The colour of every number from 0 to 1, as bytes."""
    places = np.nan_to_num(np.clip(share, 0, 1), nan=0.0) * (len(_STOPS) - 1)
    stops = np.arange(len(_STOPS))
    colours = np.stack([np.interp(places, stops, _STOPS[:, channel]) for channel in range(3)], axis=-1)
    colours[~np.isfinite(share)] = _GREY
    return colours.round().astype(np.uint8)


def _strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row, each as high as a cell, with gaps through which the page is seen."""
    scaled = [
        picture.resize((max(1, round(CELL * picture.width / picture.height)), CELL), Image.Resampling.NEAREST)
        for picture in pictures
    ]
    strip = Image.new("RGBA", (sum(each.width + GAP for each in scaled) - GAP, CELL), (0, 0, 0, 0))
    left = 0
    for each in scaled:
        strip.paste(each, (left, 0))
        left += each.width + GAP
    return strip
