"""The Fréchet distance between two sets of features, taken as Gaussians (arXiv 1706.08500, equation 6)."""

# F features, R rank

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import lapack
from threadpoolctl import ThreadpoolController

from harness.metrics.moments import Matrix, MomentAccumulator, Moments, merged

MOST_THREADS = 8


@dataclass(frozen=True)
class Frechet:
    """A distance in squared feature units, and its parts: that of the means, and that of the covariances."""

    value: float
    mean: float
    covariance: float


@dataclass(frozen=True)
class Jackknife:
    """What leaving out one chunk at a time says of a distance.  `unbiased` may be below zero.

    `standard_error` is that over the images of the evaluated set, the reference being given; `unbiased` is the distance
    without the part of its bias that goes as 1 / N.
    """

    value: float
    standard_error: float
    unbiased: float
    chunks: int


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), in squared feature units; never below zero.

    Exactly zero for equal moments; right for singular covariances; the same either way round, to rounding.
    """
    return frechet(a, b).value


def frechet(a: Moments, b: Moments, threads: int = MOST_THREADS) -> Frechet:
    """`frechet_distance` with its parts, on `threads` threads at most (fewer where the environment says fewer)."""
    return FrechetReference(b, threads).distance(a)


class FrechetReference:
    """Moments that many others are compared with: their square root is taken once."""

    def __init__(self, moments: Moments, threads: int = MOST_THREADS) -> None:
        self.moments = moments
        self.threads = threads

    def distance(self, other: Moments) -> Frechet:
        """The distance of these moments to others of the same width."""
        ours = self.moments
        assert ours.width == other.width, f"features of {ours.width} and of {other.width} numbers"
        if ours.equals(other):
            return Frechet(0.0, 0.0, 0.0)
        with _bounded(self.threads):
            if other.most_rank < ours.most_rank:
                cross = _cross_trace(_root(other), ours.covariance)
            else:
                cross = _cross_trace(self._kept_root, other.covariance)
        spread = float(np.trace(ours.covariance) + np.trace(other.covariance))
        mean, covariance = float(((ours.mean - other.mean) ** 2).sum()), max(spread - 2 * cross, 0.0)
        return Frechet(mean + covariance, mean, covariance)

    @cached_property
    def _kept_root(self) -> "_Root":
        return _root(self.moments)


def jackknife(chunks: Sequence[MomentAccumulator], reference: FrechetReference) -> Jackknife:
    """The distance of all chunks together, from which each is left out in turn; one distance for every chunk.

    Chunks may differ in size (Busing, Meijer and van der Leeden 1999, equations 6 to 9); empty ones do not count.
    """
    filled = [chunk for chunk in chunks if chunk.count]
    assert len(filled) > 1, "a jackknife needs two chunks that hold something"
    value = reference.distance(merged(filled).moments()).value
    without = np.array(
        [reference.distance(merged(filled[:i] + filled[i + 1 :]).moments()).value for i in range(len(filled))]
    )
    sizes = np.array([chunk.count for chunk in filled], np.float64)
    share = sizes.sum() / sizes
    unbiased = len(filled) * value - ((1 - 1 / share) * without).sum()
    pseudo_values = share * value - (share - 1) * without
    variance = ((pseudo_values - unbiased) ** 2 / (share - 1)).mean()
    return Jackknife(value, float(np.sqrt(variance)), float(unbiased), len(filled))


@dataclass(frozen=True)
class _Root:
    """A factor (F, R) of a covariance: factor @ factor.T gives it.  A triangular one has zeros above its diagonal."""

    factor: Matrix
    triangular: bool


def _cross_trace(root: _Root, covariance_FF: Matrix) -> float:
    """The trace of (A B)^(1/2), where `root` is A's: the sum of the roots of the eigenvalues of root.T @ B @ root.

    That product is symmetric: no complex numbers, no iteration.  Only its lower triangle is computed, and PyTorch's
    LAPACK takes half the time of numpy's for its eigenvalues.
    """
    if root.triangular:
        product_RR, info = lapack.dsygst(covariance_FF.T, root.factor, itype=2, lower=1)
        assert info == 0, info
    else:
        product_RR = np.asfortranarray(root.factor.T @ covariance_FF @ root.factor)
    eigenvalues = torch.linalg.eigvalsh(torch.from_numpy(product_RR.T), UPLO="U")
    return float(eigenvalues.clamp(min=0).sqrt().sum())


def _root(given: Moments) -> _Root:
    """Cholesky's factor; with pivots, and so no wider than the covariance's rank, where that is not definite."""
    if given.most_rank == given.width:
        factor_FF, info = lapack.dpotrf(given.covariance.T, lower=1)
        if info == 0:
            return _Root(factor_FF, triangular=True)
    packed_FF, pivots_F, rank, _ = lapack.dpstrf(given.covariance.T, lower=1)
    factor_FR = np.zeros((given.width, rank))
    factor_FR[pivots_F - 1] = np.tril(packed_FF)[:, :rank]
    return _Root(factor_FR, triangular=False)


@contextmanager
def _bounded(threads: int) -> Iterator[None]:
    """Linear algebra on a few threads: on a large node, some BLAS start more than they can feed, and stand still."""
    libraries = ThreadpoolController().select(user_api="blas")
    before = torch.get_num_threads()
    most = min([threads, before, *(library["num_threads"] for library in libraries.info())])
    torch.set_num_threads(most)
    try:
        with libraries.limit(limits=most):
            yield
    finally:
        torch.set_num_threads(before)
