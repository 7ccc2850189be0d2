"""What shapes-t2i draws: shapes, colours far apart, sizes, and how each shape is filled (no torch)."""

# P shapes times sides times phases, W window height and width

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

# In GenEval's order of colours; neither its white nor its brown: they are too near to backgrounds and to black.
RGB: Final = {
    "red": (205, 20, 40),
    "orange": (245, 125, 0),
    "yellow": (255, 230, 40),
    "green": (10, 150, 60),
    "blue": (20, 80, 230),
    "purple": (115, 25, 150),
    "pink": (255, 105, 200),
    "black": (15, 15, 15),
}
PAINTS: Final = tuple(RGB)
RGB_P3: Final[Floats] = np.array(list(RGB.values()), np.float32)

# Sides of small and of large objects, in pixels of an image of 32 x 32.
DESIGN_SIZE: Final = 32
SIDES: Final = {"small": (10.0,), "large": (13.0,)}
SIZES: Final = tuple(SIDES)
ALL_SIDES: Final = tuple(side for sides in SIDES.values() for side in sides)

# Objects begin at quarters of a pixel; every pixel is the mean of SAMPLES x SAMPLES points.
PHASES: Final = 4
SAMPLES: Final = 4

_HOLE = 0.5
_ARM = 0.36

# Whether a point is inside a shape that reaches from -1 to 1 on both axes; v points down.
FILLED: Final[dict[str, Callable[[Points, Points], npt.NDArray[np.bool_]]]] = {
    "circle": lambda u, v: u**2 + v**2 <= 1,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 1,
    "triangle": lambda u, v: (abs(v) <= 1) & (2 * abs(u) <= v + 1),
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) <= _ARM) & (np.maximum(abs(u), abs(v)) <= 1),
    "ring": lambda u, v: (u**2 + v**2 <= 1) & (u**2 + v**2 >= _HOLE**2),
    "diamond": lambda u, v: abs(u) + abs(v) <= 1,
}
SHAPES: Final = tuple(FILLED)


def coverage(shape: str, places_n3: Points, height: int, width: int) -> Floats:
    """How much of each pixel of a window a shape covers, (n, height, width) in 0..1.

    It lies there at n (side, top, left) in pixels.
    """
    side, top, left = places_n3.T[:, :, None]
    v, u = _steps(height, top, side)[:, :, None], _steps(width, left, side)[:, None, :]
    inside = FILLED[shape](u, v).reshape(-1, height, SAMPLES, width, SAMPLES)
    return np.asarray(inside.mean(axis=(2, 4), dtype=np.float32))


@lru_cache(maxsize=4)
def stencils(image_size: int) -> Floats:
    """Every shape, side and phase as it is drawn: (shapes, sides, PHASES, PHASES, 2 W, 2 W), W = image_size / 2.

    The object begins at row and column W: whoever copies a window of W x W from further up draws it further down.
    """
    window, scale = image_size // 2, image_size / DESIGN_SIZE
    sides = [side * scale for side in ALL_SIDES]
    offsets = np.arange(PHASES) / PHASES
    places = np.array(list(product(sides, offsets, offsets)))
    drawn = np.stack([coverage(shape, places, window, window) for shape in SHAPES])
    bank = drawn.reshape(len(SHAPES), len(sides), PHASES, PHASES, window, window)
    return np.pad(bank, [(0, 0)] * 4 + [(window, 0)] * 2)


def _steps(length: int, start: Points, side: Points) -> Points:
    """Where the sample points of some pixels lie on an axis on which the shape reaches from -1 to 1."""
    points = (np.arange(length * SAMPLES) + 0.5) / SAMPLES
    return (points - start) * (2 / side) - 1
