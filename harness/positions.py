"""Fixed 2-D sin-cos positions, for patches and registers alike (no torch)."""

import math

import numpy as np
import numpy.typing as npt


def sin_cos_2d(rows: int, columns: int, width: int) -> npt.NDArray[np.float32]:
    """One row per cell of a grid, row by row: (rows columns, width), float32.

    The first half of a row encodes the COLUMN, the second half the row, each as sines then cosines of the index at
    width / 4 frequencies 10000^(-i / (width / 4)), computed in float64 (MAE and DiT use the same table).
    """
    assert width % 4 == 0, f"a width of {width} is not divisible by 4"
    row, column = np.divmod(np.arange(rows * columns), columns)
    table = np.concatenate([_sin_cos(column, width // 2), _sin_cos(row, width // 2)], axis=1)
    return table.astype(np.float32)


def register_positions(count: int, width: int) -> npt.NDArray[np.float32]:
    """Positions of `count` registers: (count, width), float32.

    A square number fills a square grid, as in the official code.  Any other number fills, row by row, the first
    cells of a grid of floor(sqrt(count)) rows and as few columns as hold it; two or three registers share the single
    cell of a 1 x 1 grid, because that is what the official code does with them.
    """
    side = math.isqrt(count)
    if side == 1:
        return np.repeat(sin_cos_2d(1, 1, width), count, axis=0)
    return sin_cos_2d(side, math.ceil(count / side), width)[:count]


def _sin_cos(index: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float64]:
    frequencies = 1.0 / 10000.0 ** (np.arange(width // 2) / (width / 2))
    angles = np.outer(index, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
