"""Distances of two sets of features by a kernel: KID (arXiv 1801.01401) and CMMD (arXiv 2401.09603)."""

# N, M samples of the two sets, n, m those of a block or a subset, F features

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.errors import UserError
from harness.files import release

Features = npt.NDArray[np.floating]
Matrix = npt.NDArray[np.float64]

SUBSETS = 100
SUBSET_SIZE = 1000
CMMD_BANDWIDTH = 10.0
CMMD_SCALE = 1000.0
BLOCK = 2000


@dataclass(frozen=True)
class KernelDistance:
    """The mean over random subsets; it may be below zero.  `spread` is the standard deviation over subsets."""

    value: float
    spread: float
    subsets: int
    subset_size: int


@dataclass(frozen=True)
class MeanDiscrepancy:
    """CMMD, never below zero, and the mean kernel within the images, within the reference and between the two."""

    value: float
    within: float
    within_reference: float
    between: float


def kernel_distance(
    features_NF: Features,
    reference_MF: Features,
    seed: int = 0,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
) -> KernelDistance:
    """KID with the cubic kernel (x y / F + 1)^3, in float64; the squared MMD without bias, of random subsets.

    Equals clean-fid's `kernel_distance(reference, features)` after `numpy.random.seed(seed)`, and torch-fidelity's KID
    with `rng_seed=seed`, which refuses sets that are smaller than its subsets: here these become as small as the sets.
    Features may be mapped from disk: one subset is in memory at a time.  Raises UserError for fewer than two samples.
    """
    size = min(len(features_NF), len(reference_MF), subset_size)
    if size < 2:
        raise UserError(f"a kernel distance of subsets of {size} image(s) does not exist", "give two images at least")
    random = np.random.RandomState(seed)
    squares = np.array(
        [_squared_mmd(_subset(features_NF, size, random), _subset(reference_MF, size, random)) for _ in range(subsets)]
    )
    return KernelDistance(float(squares.mean()), float(squares.std()), subsets, size)


def mean_discrepancy(features_NF: Features, reference_MF: Features) -> MeanDiscrepancy:
    """CMMD: 1000 times the squared MMD with a Gaussian kernel of bandwidth 10, of CLIP's embeddings of length 1.

    The estimate is that of the paper's code, with each sample's kernel with itself: biased upwards, and zero for equal
    sets.  In float64, block by block, and never a whole N x M matrix; raises UserError where there are no samples.
    """
    if not len(features_NF) or not len(reference_MF):
        raise UserError("there are no images to compare", "give one image at least, on both sides")
    within, within_reference, between = (
        _mean_kernel(one, other)
        for one, other in ((features_NF, features_NF), (reference_MF, reference_MF), (features_NF, reference_MF))
    )
    value = max(CMMD_SCALE * (within + within_reference - 2 * between), 0.0)
    return MeanDiscrepancy(value, within, within_reference, between)


def _subset(features_NF: Features, size: int, random: np.random.RandomState) -> Matrix:
    chosen_mF = np.asarray(features_NF[random.choice(len(features_NF), size, replace=False)], np.float64)
    release(features_NF)
    return chosen_mF


def _squared_mmd(x_mF: Matrix, y_mF: Matrix) -> float:
    size = len(x_mF)
    within = sum(float(kernel.sum() - np.trace(kernel)) for kernel in (_cubic(x_mF, x_mF), _cubic(y_mF, y_mF)))
    return float(within / (size * (size - 1)) - 2 * _cubic(x_mF, y_mF).sum() / size**2)


def _cubic(x_mF: Matrix, y_mF: Matrix) -> Matrix:
    base_mm: Matrix = x_mF @ y_mF.T / x_mF.shape[1] + 1
    return base_mm * base_mm * base_mm  # a power is ten times slower


def _mean_kernel(one_NF: Features, other_MF: Features) -> float:
    total = sum(_gaussian_sum(x_nF, y_mF) for x_nF in _blocks(one_NF) for y_mF in _blocks(other_MF))
    return total / (len(one_NF) * len(other_MF))


def _gaussian_sum(x_nF: Matrix, y_mF: Matrix) -> float:
    squares_nm = (x_nF**2).sum(axis=1)[:, None] - 2 * x_nF @ y_mF.T + (y_mF**2).sum(axis=1)
    return float(np.exp(squares_nm / (-2 * CMMD_BANDWIDTH**2)).sum())


def _blocks(features_NF: Features) -> Iterator[Matrix]:
    for start in range(0, len(features_NF), BLOCK):
        yield np.array(features_NF[start : start + BLOCK], np.float64)
        release(features_NF)
