"""The Fréchet distance between two sets of features, taken as Gaussians (arXiv 1706.08500, equation 6)."""

# N samples, F features

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """The mean (F,) and the unbiased covariance (F, F) of N samples, in float64."""

    count: int
    mean: Matrix
    covariance: Matrix


def moments(features_NF: npt.NDArray[np.floating]) -> Moments:
    """The moments of at least two samples."""
    assert len(features_NF) > 1, "one sample has no covariance"
    features = features_NF.astype(np.float64)
    return Moments(len(features), features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), in squared feature units; never below zero.

    The trace of (A B)^(1/2) is the sum of the square roots of the eigenvalues of A^(1/2) B A^(1/2), which is
    symmetric: no complex numbers, no iteration, and right for singular covariances.
    """
    root = _square_root(a.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(eigenvalues.clip(min=0)).sum()
    gap = ((a.mean - b.mean) ** 2).sum()
    return max(float(gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross), 0.0)


def _square_root(covariance: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(covariance)
    root: Matrix = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root
