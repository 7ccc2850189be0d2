"""From image files to pixels and back: the papers' crop, and the three rules for 8 bits."""

# N batch, C channels, H height, W width

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.floating[Any]]

GAP, GAP_GREY = 2, 96


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's crop to size x size: halve with a box filter while twice too large, resize bicubically, cut the middle."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def read_pixels(path: Path, size: int, channels: int) -> Pixels:
    """One image file, cropped: (C, size, size) in 0..255.

    Grey, palette and CMYK files become RGB (or grey, for one channel); an alpha channel is dropped, as in ADM; 16-bit
    grey keeps its upper 8 bits.  Raises OSError, SyntaxError or ValueError for a file that holds no readable image.
    """
    with Image.open(path) as file:
        file.load()
        image: Image.Image = file
        if file.mode.startswith("I"):
            image = Image.fromarray((np.asarray(file).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        cropped = center_crop(image.convert("RGB"), size)
        if channels == 1:
            cropped = cropped.convert("L")
        pixels = np.asarray(cropped, dtype=np.uint8).reshape(size, size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_unit(pixels: Pixels) -> Values:
    """0..255 to [-1, 1], as every family here is trained."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _round(values: Numbers) -> Numbers:
    grey: Numbers = np.rint((values + np.float32(1)) / np.float32(2) * np.float32(255))
    return grey


def _truncate_128(values: Numbers) -> Numbers:
    grey: Numbers = np.trunc(np.float32(127.5) * values + np.float32(128))
    return grey


def _truncate_255(values: Numbers) -> Numbers:
    unit = ((values.astype(np.float64) + 1) / 2).astype(np.float32)
    grey: Numbers = np.trunc(unit * np.float32(255))
    return grey


# round: JiT.  truncate-128: DiT and SiT.  truncate-255: RAE and DSR.  They differ by up to one grey level, which moves
# a Fréchet distance, so a protocol names its rule.
UINT8_RULES: Mapping[str, Callable[[Numbers], Numbers]] = {
    "round": _round,
    "truncate-128": _truncate_128,
    "truncate-255": _truncate_255,
}


def to_uint8(values: Numbers, rule: str) -> Pixels:
    """[-1, 1] to 0..255 under a named rule; values outside are clipped."""
    return UINT8_RULES[rule](values).clip(0, 255).astype(np.uint8)


def grid(pixels_NCHW: Pixels, columns: int) -> Image.Image:
    """N images as one picture, row by row, unscaled, a line of `GAP` grey pixels between them; N must fill its rows."""
    N, C, H, W = pixels_NCHW.shape
    padded = np.pad(pixels_NCHW, ((0, 0), (0, 0), (0, GAP), (0, GAP)), constant_values=GAP_GREY)
    rows, H, W = N // columns, H + GAP, W + GAP
    picture = padded.reshape(rows, columns, C, H, W).transpose(0, 3, 1, 4, 2).reshape(rows * H, columns * W, C)
    picture = picture[:-GAP, :-GAP]
    return Image.fromarray(picture[..., 0] if C == 1 else picture)
