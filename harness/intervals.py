"""How sure a difference between two arms is: over training seeds, or by what is published where there is one seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import special

CONFIDENCE = 0.95
FEWEST = 2

# The standard deviation of one training's FID over its mean, from one training seed to the next: 1.26 % over 25
# trainings of SiT (FID Lottery, arXiv 2606.20536), rounded up.
PUBLISHED_VARIATION = 0.013

# What is counted, not measured, is the same in every training.
COUNTED = frozenset(
    {"gflops", "gflops_per_image", "decoder_gflops", "nfe", "parameters", "trainable_parameters"},
)


@dataclass(frozen=True)
class Interval:
    """A difference, half the width of its two-sided 95 % interval, and where that comes from.

    "seeds": Student's t over the differences of `pairs` matched trainings.  "prior": one pair, whose two values are
    taken to vary from seed to seed by a coefficient of variation that was not measured on them.  "counted": no
    training changes it.
    """

    mean: float
    half_width: float
    pairs: int
    method: Literal["seeds", "prior", "counted"]

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    @property
    def shows_nothing(self) -> bool:
        """Whether zero lies inside: the two arms may be equal."""
        return self.low <= 0 <= self.high


def varies_as_fid(metric: str) -> bool:
    """Whether the published variation of one training is of this number: Fréchet distances alone."""
    return metric == "fid" or metric.startswith("fd_")


def exactly(difference: float, pairs: int) -> Interval:
    """The interval of what does not vary."""
    return Interval(difference, 0.0, pairs, "counted")


def over_seeds(mean: float, deviation: float, pairs: int) -> Interval | None:
    """The interval of a mean of paired differences with this sample standard deviation; None for fewer than two."""
    if pairs < FEWEST or math.isnan(deviation):
        return None
    quantile = float(special.stdtrit(pairs - 1, (1 + CONFIDENCE) / 2))
    return Interval(mean, quantile * deviation / math.sqrt(pairs), pairs, "seeds")


def of_one_pair(value: float, base: float, variation: float = PUBLISHED_VARIATION) -> Interval:
    """The interval of `value` - `base`, one training each, whose values vary by `variation` of themselves."""
    quantile = float(special.ndtri((1 + CONFIDENCE) / 2))
    return Interval(value - base, quantile * variation * math.hypot(value, base), 1, "prior")


def variation_of(arms: Sequence[tuple[float, float, int]]) -> float:
    """The coefficient of variation to expect of one training: what repeated arms show, and not less than published.

    `arms` are (mean, sample standard deviation, seeds); their squared coefficients are pooled by degrees of freedom.
    """
    repeated = [(deviation / mean, seeds - 1) for mean, deviation, seeds in arms if seeds >= FEWEST and mean]
    if not repeated:
        return PUBLISHED_VARIATION
    pooled = sum(freedom * ratio**2 for ratio, freedom in repeated) / sum(freedom for _, freedom in repeated)
    return max(math.sqrt(pooled), PUBLISHED_VARIATION)
