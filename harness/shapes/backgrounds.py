"""What lies behind the objects of shapes-t2i: greys and pale tints, plain or faintly textured (no torch)."""

# N images, S image height and width, T textures, G sheet height and width, D random numbers an image

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from harness.shapes.palette import DESIGN_SIZE, Floats

NUM_RANDOM: Final = 6

# None is near a colour of the palette, and a texture's contrast does not bring one nearer.
TINTS_B3: Final[Floats] = np.array(
    [
        *((grey, grey, grey) for grey in (246, 222, 196, 172)),
        *((235, 228, 215), (214, 226, 236), (222, 234, 216)),
    ],
    np.float32,
)
PLAIN_SHARE: Final = 0.5
CONTRAST: Final = (5.0, 10.0)
_LIGHTER = 6.0
_SHEET_SEED = 20231017


def backgrounds(random_ND: npt.NDArray[np.float64], image_size: int) -> Floats:
    """(N, 3, S, S) in 0..255, from NUM_RANDOM numbers in 0..1 for each."""
    choice, shade, kind, strength, down, right = random_ND.astype(np.float32).T
    tint_N3 = TINTS_B3[_place(choice, len(TINTS_B3))] + (2 * shade - 1)[:, None] * _LIGHTER
    sheets = _windows(image_size)
    is_textured = kind >= PLAIN_SHARE
    texture = _place((kind - PLAIN_SHARE) / (1 - PLAIN_SHARE) * is_textured, len(sheets))
    pattern_NSS = sheets[texture, _place(down, sheets.shape[1]), _place(right, sheets.shape[2])]
    low, high = CONTRAST
    contrast = (low + (high - low) * strength) * is_textured
    canvas = tint_N3[:, :, None, None] + (pattern_NSS * contrast[:, None, None])[:, None]
    return np.asarray(canvas.clip(0, 255), np.float32)


def _place(random: Floats, count: int) -> npt.NDArray[np.int64]:
    # A float32 just below 1 may round up to 1.
    return np.minimum((random * count).astype(np.int64), count - 1)


@lru_cache(maxsize=4)
def _windows(image_size: int) -> Floats:
    """All windows of S x S of the sheets of textures in -1..1: (T, places, places, S, S), a view."""
    length = 2 * image_size
    y, x = np.mgrid[:length, :length] * (DESIGN_SIZE / image_size)
    sheets = [
        np.random.Generator(np.random.Philox(_SHEET_SEED)).standard_normal((length, length)).clip(-2, 2) / 2,
        np.sign(np.sin(y * (np.pi / 3) + 0.1)),
        np.sign(np.sin(x * (np.pi / 3) + 0.1)),
        np.sign(np.sin((x + y) * (np.pi / 4) + 0.1)),
        np.sign(np.sin(x * (np.pi / 4) + 0.1) * np.sin(y * (np.pi / 4) + 0.1)),
    ]
    return sliding_window_view(np.stack(sheets).astype(np.float32), (image_size, image_size), axis=(1, 2))
