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

Features = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.float32]

NEIGHBOURS = 3
TILE = 1000
REALISM_FLOOR = 1e-5
FIDELITY_FLOOR = 1e-5
# Well below half precision's largest number, 65504: what stays below it cannot overflow on its way.
SURELY_FINITE = 60_000.0


@dataclass(frozen=True)
class Arithmetic:
    """How distances are computed.  ADM's way is half precision, and float32 for blocks where that overflows.

    `block` is the side of those blocks: it decides what overflows together, and how many points are in memory at once
    (twice `block`, and their distances to 1000 of them).
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

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, wanted: slice) -> "_Points":
        return _Points(self.values[wanted], self.squares[wanted])


def _tiles(rows_NF: Features, columns_MF: Features, arithmetic: Arithmetic) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances between two sets, tile by tile, with the rows and columns that each belongs to."""
    for rows in _steps(len(rows_NF), arithmetic.block):
        for columns in _steps(len(columns_MF), arithmetic.block):
            of_rows, of_columns = _points(rows_NF[rows], columns_MF[columns], arithmetic)
            for tile in _steps(len(of_rows), TILE):
                yield (
                    slice(rows.start + tile.start, rows.start + tile.stop),
                    columns,
                    _distances(of_rows[tile], of_columns),
                )


def _points(rows_nF: Features, columns_mF: Features, arithmetic: Arithmetic) -> tuple[_Points, _Points]:
    """Both sides of a block, in half precision if all of its distances are finite so, else in single."""
    rows, columns = (
        torch.from_numpy(np.array(side, np.float32)).to(arithmetic.device) for side in (rows_nF, columns_mF)
    )
    if arithmetic.half:
        halves = _halved(rows), _halved(columns)
        if _is_finite(*halves):
            return halves
    return _Points(rows, (rows * rows).sum(1)), _Points(columns, (columns * columns).sum(1))


def _halved(values_nF: Tensor) -> _Points:
    """Points and each square rounded to half precision; sums accumulate in float32, and are rounded after."""
    rounded_nF = values_nF.half().float()
    return _Points(rounded_nF, (rounded_nF * rounded_nF).half().float().sum(1).half())


def _is_finite(rows: _Points, columns: _Points) -> bool:
    """Whether no distance overflows; where lengths do not tell, all are computed for this alone."""
    longest = sum(float(side.squares.max().float().sqrt()) for side in (rows, columns))
    if longest**2 < SURELY_FINITE:
        return True
    return all(bool(_distances(rows[tile], columns).isfinite().all()) for tile in _steps(len(rows), TILE))


def _distances(rows: _Points, columns: _Points) -> Tensor:
    """max(|u|^2 - 2 u v + |v|^2, 0) in float32, each operation rounded to the precision of the squared lengths."""
    products_nm = (rows.values @ columns.values.T).to(rows.squares.dtype)
    distances_nm: Tensor = (rows.squares[:, None] - 2 * products_nm + columns.squares).clamp(min=0).float()
    return distances_nm


def _steps(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _like(tensor: Tensor, numbers: Numbers) -> Tensor:
    return torch.from_numpy(numbers).to(tensor.device)


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.cpu().numpy()
    return array
