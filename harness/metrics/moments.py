"""The mean and covariance of features, gathered piece by piece in any order."""

# N samples, n those of one piece, F features

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from harness.errors import UserError

Matrix = npt.NDArray[np.float64]

CHUNKS = 10


@dataclass(frozen=True)
class Moments:
    """The mean (F,) and the unbiased covariance (F, F) of `count` samples, in float64.

    `count` is None where statistics came from elsewhere and do not say of how many samples they are.
    """

    count: int | None
    mean: Matrix
    covariance: Matrix

    @property
    def width(self) -> int:
        """F."""
        return len(self.mean)

    @property
    def most_rank(self) -> int:
        """What the covariance's rank cannot exceed: N samples span N - 1 dimensions about their mean."""
        return self.width if self.count is None else min(self.width, self.count - 1)

    def equals(self, other: "Moments") -> bool:
        """Whether both are the same numbers, bit for bit; of how many samples does not matter."""
        return np.array_equal(self.mean, other.mean) and np.array_equal(self.covariance, other.covariance)


def moments(features_NF: npt.NDArray[np.floating]) -> Moments:
    """The moments of at least two samples.  Raises UserError where a feature is not finite."""
    gathered = MomentAccumulator(features_NF.shape[1])
    gathered.add(features_NF)
    return gathered.moments()


class MomentAccumulator:
    """Count, mean and scatter of what was added: F x F numbers, however many samples there are.

    Accumulators that were filled apart, by other processes too, merge in any order and grouping into the same numbers
    to rounding (Chan, Golub and LeVeque 1979).  `scatter` is the sum of squares about the mean: its lower triangle
    only, in columns, as BLAS updates it in place.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean: Matrix = np.zeros(width)
        self.scatter: Matrix = np.zeros((width, width), order="F")

    def add(self, features_nF: npt.NDArray[np.floating]) -> None:
        """Any number of samples; their precision does not matter.  Raises UserError where one is not finite."""
        if not len(features_nF):
            return
        assert features_nF.ndim == 2, features_nF.shape
        assert features_nF.shape[1] == len(self.mean), f"{features_nF.shape[1]} features for {len(self.mean)}"
        features = np.asarray(features_nF, np.float64)
        mean = features.mean(axis=0)
        if not np.isfinite(mean).all():
            raise UserError(
                "the extractor gave features that are not finite",
                "its weights are damaged or its precision overflows: verify the file, or take float32",
            )
        rest = features - mean
        self._take_in(len(features), mean, rest)

    def merge(self, other: "MomentAccumulator") -> None:
        """All that `other` was given, which stays as it is."""
        assert len(other.mean) == len(self.mean), "moments of other features"
        if not other.count:
            return
        self.scatter += other.scatter
        self._take_in(other.count, other.mean, np.empty((0, len(self.mean))))

    def moments(self) -> Moments:
        """The moments so far.  Raises UserError for fewer than two samples, which have no covariance."""
        if self.count < 2:
            raise UserError(f"{self.count} image(s) have no covariance", "give two images at least, better thousands")
        lower = np.tril(self.scatter, -1)
        covariance = lower + lower.T
        np.fill_diagonal(covariance, np.diagonal(self.scatter))
        covariance /= self.count - 1
        return Moments(self.count, self.mean.copy(), covariance)

    def _take_in(self, count: int, mean: Matrix, rest_nF: Matrix) -> None:
        """Samples with this count and mean; `rest_nF` are those parts of their scatter that are not in yet."""
        total, gap = self.count + count, mean - self.mean
        between = np.sqrt(self.count * count / total) * gap
        rows = np.concatenate([rest_nF, between[None]])
        self.scatter = blas.dsyrk(1.0, rows.T, beta=1.0, c=self.scatter, lower=1, overwrite_c=1)
        self.mean = self.mean + gap * (count / total)
        self.count = total


class ChunkedMoments:
    """Moments of a set of images in several random parts, so that each part can be left out (jackknife).

    The part of an image depends on its index alone: whatever the order, the batches or the interruptions of an
    evaluation, its chunks hold the same images.
    """

    def __init__(self, width: int, chunks: int = CHUNKS) -> None:
        assert chunks > 1, "a jackknife leaves out one chunk of several"
        self.chunks = [MomentAccumulator(width) for _ in range(chunks)]

    def add(self, features_nF: npt.NDArray[np.floating], first: int) -> None:
        """The features of images `first`, `first + 1`, ..."""
        places_n = chunk_of(np.arange(first, first + len(features_nF)), len(self.chunks))
        for place, chunk in enumerate(self.chunks):
            chunk.add(features_nF[places_n == place])

    def moments(self) -> Moments:
        """The moments of everything."""
        return merged(self.chunks).moments()


def merged(parts: Iterable[MomentAccumulator]) -> MomentAccumulator:
    """A new accumulator of all that several hold."""
    first, *others = parts
    everything = MomentAccumulator(len(first.mean))
    for part in [first, *others]:
        everything.merge(part)
    return everything


def chunk_of(indices_n: npt.NDArray[np.int64], chunks: int) -> npt.NDArray[np.int64]:
    """The chunk of each image: of every `chunks` neighbours each goes to another one, in random order.

    Chunks are so of equal size, have equal parts of each class where images are sorted by class, and do not keep time
    with labels that repeat (image i of class i mod 1000), as taking every tenth image would.
    """
    first_n = indices_n - indices_n % chunks
    keys_nC = _scrambled((first_n[:, None] + np.arange(chunks)).astype(np.uint64))
    own_n = np.take_along_axis(keys_nC, (indices_n % chunks)[:, None], axis=1)
    places_n: npt.NDArray[np.int64] = (keys_nC < own_n).sum(axis=1)
    return places_n


def _scrambled(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64: different numbers stay different, neighbours become unrelated."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return scrambled
