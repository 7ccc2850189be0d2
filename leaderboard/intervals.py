"""How sure a mean over seeds is."""

import math

from scipy import stats

CONFIDENCE = 0.95
FEWEST = 2


def half_width(deviation: float, count: int) -> float | None:
    """Half of the two-sided 95 % interval of a mean of `count` values (Student's t); None for fewer than two."""
    if count < FEWEST or math.isnan(deviation):
        return None
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * deviation / math.sqrt(count)
