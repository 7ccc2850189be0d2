"""What registers changed in each arm, and how sure that is."""

import pandas as pd

from harness.intervals import FEWEST, Interval, of_one_pair, over_seeds, variation_of


def intervals(arms: pd.DataFrame) -> list[Interval | None]:
    """The difference to `none` of every row of `queries.arms`; None where there is no matched run.

    Several seeds give Student's t over their differences.  One seed gives what arms of this board with several seeds
    vary by, and not less than the published prior: never an interval that one run cannot have.
    """
    repeated = arms[(arms["measured"] >= FEWEST) & arms["mean"].notna()]
    columns = zip(repeated["mean"], repeated["deviation"], repeated["measured"], strict=True)
    variation = variation_of([(float(mean), float(deviation), int(seeds)) for mean, deviation, seeds in columns])
    return [_interval(arm, variation) for _, arm in arms.iterrows()]


def _interval(arm: pd.Series, variation: float) -> Interval | None:
    pairs = int(arm["pairs"])
    if pairs >= FEWEST:
        return over_seeds(float(arm["difference"]), float(arm["difference_deviation"]), pairs)
    if pairs == 1:
        base = float(arm["base"])
        return of_one_pair(base + float(arm["difference"]), base, variation)
    return None
