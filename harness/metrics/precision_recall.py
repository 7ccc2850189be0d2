"""Precision and recall of generated images: which lie where real ones do, and the other way (arXiv 1904.06991)."""

# N, M points of two sets, n, m those of a block, F features, k neighbours

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.errors import UserError
from harness.files import release

Features = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.float32]

NEIGHBOURS = 3
TILE = 2000  # points of each side, and their distances, are in memory at a time
REALISM_FLOOR = 1e-5
FIDELITY_FLOOR = 1e-5
# Well below half precision's largest number, 65504: what stays below it cannot overflow on its way.
SURELY_FINITE = 60_000.0


@dataclass(frozen=True)
class Arithmetic:
    """How distances are computed.  ADM's way is half precision, and float32 for blocks where that overflows.

    `block` is the side of those blocks: it decides what overflows together, and nothing else.
    """

    half: bool = True
    block: int = 10_000
    device: str = "cpu"


ADM = Arithmetic()
SINGLE = Arithmetic(half=False)


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares of images, between 0 and 1."""

    precision: float
    recall: float

    @property
    def f_score(self) -> float:
        """Their harmonic mean, as torch-fidelity takes it: zero where both are zero."""
        return 2 * self.precision * self.recall / max(FIDELITY_FLOOR, self.precision + self.recall)


@dataclass(frozen=True)
class Realism:
    """Of each point, (N,): whether it is inside of a set's manifold, its realism score, the set's nearest point."""

    inside: npt.NDArray[np.bool_]
    score: Numbers
    nearest: npt.NDArray[np.int64]

    @property
    def share_inside(self) -> float:
        return float(self.inside.mean())


class Manifold:
    """Where a set of points lies: in balls about each of them (N, F) that reach to its k-th neighbour.

    `radii` (N,) are squared distances.  Points may be mapped from disk.  Raises UserError for k points or fewer.
    """

    def __init__(self, points_NF: Features, neighbours: int = NEIGHBOURS, arithmetic: Arithmetic = ADM) -> None:
        if len(points_NF) <= neighbours:
            raise UserError(
                f"{len(points_NF)} image(s) have no {neighbours} neighbours each",
                f"give {neighbours + 1} images at least, better thousands",
            )
        self.points, self.arithmetic = points_NF, arithmetic
        self.radii = self._radii(neighbours)

    def realism(self, points_NF: Features) -> Realism:
        """What ADM's `evaluate` says of each point: max_j radius_j / (distance_j + 1e-5), and the nearest j.

        Radii and distances are squared, as there.
        """
        count = len(points_NF)
        inside, score = np.zeros(count, np.bool_), np.zeros(count, np.float32)
        nearest, least = np.zeros(count, np.int64), np.full(count, np.inf, np.float32)
        for rows, columns, distances_nm in _tiles(points_NF, self.points, self.arithmetic):
            radii_m = _like(distances_nm, self.radii[columns])
            inside[rows] |= _array((distances_nm <= radii_m).any(1))
            score[rows] = np.maximum(score[rows], _array((radii_m / (distances_nm + REALISM_FLOOR)).amax(1)))
            found = distances_nm.min(1)
            is_nearer = _array(found.values) < least[rows]
            nearest[rows] = np.where(is_nearer, _array(found.indices) + columns.start, nearest[rows])
            least[rows] = np.minimum(least[rows], _array(found.values))
        return Realism(inside, score, nearest)

    def _radii(self, neighbours: int) -> Numbers:
        """The (k + 1)-th smallest distance of each point to all, itself included."""
        nearest: dict[int, Tensor] = {}
        for rows, _, distances_nm in _tiles(self.points, self.points, self.arithmetic):
            few = distances_nm.topk(min(neighbours + 1, distances_nm.shape[1]), largest=False).values
            if rows.start in nearest:
                both = torch.cat([nearest[rows.start], few], dim=1)
                few = both.topk(min(neighbours + 1, both.shape[1]), largest=False).values
            nearest[rows.start] = few
        radii_N: Numbers = _array(torch.cat([nearest[start][:, -1] for start in sorted(nearest)]))
        return radii_N


def precision_recall(images: Manifold, reference: Manifold) -> PrecisionRecall:
    """The share of generated images inside of the reference's manifold, and that of the reference inside of theirs.

    ADM's numbers, for its arithmetic and three neighbours; torch-fidelity's for `SINGLE` arithmetic, but for points on
    an edge to the last bit.  Never a whole N x M matrix.
    """
    assert images.arithmetic == reference.arithmetic, "manifolds of different arithmetic"
    inside_N, covered_M = np.zeros(len(images.points), np.bool_), np.zeros(len(reference.points), np.bool_)
    for rows, columns, distances_mn in _tiles(reference.points, images.points, reference.arithmetic):
        inside_N[columns] |= _array((distances_mn <= _like(distances_mn, reference.radii[rows])[:, None]).any(0))
        covered_M[rows] |= _array((distances_mn <= _like(distances_mn, images.radii[columns])).any(1))
    return PrecisionRecall(float(inside_N.mean()), float(covered_M.mean()))


@dataclass(frozen=True)
class _Points:
    """Points (n, F) in float32, rounded to half precision where that is wanted, and their squared lengths (n,)."""

    values: Tensor
    squares: Tensor


def _tiles(rows_NF: Features, columns_MF: Features, arithmetic: Arithmetic) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances between two sets, tile by tile, with the rows and columns that each belongs to."""
    for rows in _steps(slice(0, len(rows_NF)), arithmetic.block):
        for columns in _steps(slice(0, len(columns_MF)), arithmetic.block):
            block = _Block(rows_NF, columns_MF, rows, columns, arithmetic.device)
            yield from block.tiles(in_half=arithmetic.half and block.is_finite_in_half())


@dataclass(frozen=True)
class _Block:
    """Some rows and columns of all distances: half precision is given up for all of them together."""

    row_points: Features
    column_points: Features
    rows: slice
    columns: slice
    device: str

    def tiles(self, *, in_half: bool) -> Iterator[tuple[slice, slice, Tensor]]:
        """All distances, of few points at a time."""
        for rows in _steps(self.rows, TILE):
            of_rows = self._points(self.row_points, rows, in_half=in_half)
            for columns in _steps(self.columns, TILE):
                yield rows, columns, _distances(of_rows, self._points(self.column_points, columns, in_half=in_half))

    def is_finite_in_half(self) -> bool:
        """Whether no distance overflows; where lengths do not tell, all are computed for this alone."""
        longest = self._longest(self.row_points, self.rows) + self._longest(self.column_points, self.columns)
        if longest**2 < SURELY_FINITE:
            return True
        return all(bool(distances_nm.isfinite().all()) for _, _, distances_nm in self.tiles(in_half=True))

    def _longest(self, points_NF: Features, wanted: slice) -> float:
        tiles = _steps(wanted, TILE)
        return max(float(self._points(points_NF, tile, in_half=True).squares.max().float().sqrt()) for tile in tiles)

    def _points(self, points_NF: Features, tile: slice, *, in_half: bool) -> _Points:
        """In half precision points and each square are rounded; sums accumulate in float32, and are rounded after."""
        values_nF = torch.from_numpy(np.array(points_NF[tile], np.float32)).to(self.device)
        release(points_NF)
        if not in_half:
            return _Points(values_nF, (values_nF * values_nF).sum(1))
        rounded_nF = values_nF.half().float()
        return _Points(rounded_nF, (rounded_nF * rounded_nF).half().float().sum(1).half())


def _distances(rows: _Points, columns: _Points) -> Tensor:
    """max(|u|^2 - 2 u v + |v|^2, 0) in float32, each operation rounded to the precision of the squared lengths."""
    products_nm = (rows.values @ columns.values.T).to(rows.squares.dtype)
    distances_nm: Tensor = (rows.squares[:, None] - 2 * products_nm + columns.squares).clamp(min=0).float()
    return distances_nm


def _steps(whole: slice, size: int) -> Iterator[slice]:
    for start in range(whole.start, whole.stop, size):
        yield slice(start, min(start + size, whole.stop))


def _like(tensor: Tensor, numbers: Numbers) -> Tensor:
    return torch.from_numpy(numbers).to(tensor.device)


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.cpu().numpy()
    return array
