"""The Inception Score: how sure a classifier is of each image, and how different its answers are (arXiv 1606.03498)."""

# N images, n those of one part, K classes

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from harness.errors import UserError
from harness.files import release

ADM_CHUNK = 5000
FIDELITY_PARTS = 10
FIDELITY_SEED = 2020


@dataclass(frozen=True)
class InceptionScore:
    """The mean over parts of the images, between 1 and the number of classes; `spread` is their standard deviation."""

    value: float
    spread: float
    parts: int


def inception_score(probabilities_NK: npt.NDArray[np.floating], chunk: int = ADM_CHUNK) -> InceptionScore:
    """As ADM's evaluator takes it: chunks in the order of the files, of which the last may be short and counts as much.

    Probabilities may be mapped from disk: one chunk is in memory at a time.  Raises UserError without images.
    """
    total = len(probabilities_NK)
    return _over([np.arange(start, min(start + chunk, total)) for start in range(0, total, chunk)], probabilities_NK)


def inception_score_of_parts(
    probabilities_NK: npt.NDArray[np.floating], parts: int = FIDELITY_PARTS, seed: int | None = FIDELITY_SEED
) -> InceptionScore:
    """As torch-fidelity takes it: equal parts of the images in random order (in their own without a seed)."""
    total = len(probabilities_NK)
    if total < parts:
        raise UserError(f"{total} images cannot be divided into {parts} parts", f"give {parts} images at least")
    order_N = np.arange(total) if seed is None else np.random.RandomState(seed).permutation(total)
    bounds = [part * total // parts for part in range(parts + 1)]
    return _over([order_N[start:end] for start, end in pairwise(bounds)], probabilities_NK)


def _over(parts: Sequence[npt.NDArray[np.int64]], probabilities_NK: npt.NDArray[np.floating]) -> InceptionScore:
    if not parts:
        raise UserError("there are no images to take an Inception Score of", "give one image at least")
    scores = []
    for part_n in parts:
        scores.append(_score(np.asarray(probabilities_NK[part_n], np.float64)))
        release(probabilities_NK)
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), len(parts))


def _score(probabilities_nK: npt.NDArray[np.float64]) -> float:
    """exp of the mean over images of sum_k p (log p - log mean p); a class that is ruled out adds nothing."""
    mean_K = probabilities_nK.mean(axis=0)
    ratio_nK = np.divide(probabilities_nK, mean_K, out=np.ones_like(probabilities_nK), where=probabilities_nK > 0)
    return float(np.exp((probabilities_nK * np.log(ratio_nK)).sum(axis=1).mean()))
