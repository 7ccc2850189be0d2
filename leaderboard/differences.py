"""What registers changed in each arm, and how sure that is."""

import pandas as pd

from harness.intervals import COUNTED, FEWEST, Interval, exactly, of_one_pair, over_seeds, variation_of, varies_as_fid


def intervals(arms: pd.DataFrame, metric: str) -> list[Interval | None]:
    """The difference to `none` of every row of `queries.arms`; None where there is none, or nothing is known of it.

    Several seeds give Student's t over their differences.  One seed of a Fréchet distance has the interval of what
    arms of this board with several seeds vary by, and not less than the published prior; of another metric it has none.
    """
    repeated = arms[(arms["measured"] >= FEWEST) & arms["mean"].notna()]
    columns = zip(repeated["mean"], repeated["deviation"], repeated["measured"], strict=True)
    variation = variation_of([(float(mean), float(deviation), int(seeds)) for mean, deviation, seeds in columns])
    return [_interval(arm, metric, variation) for _, arm in arms.iterrows()]


def _interval(arm: pd.Series, metric: str, variation: float) -> Interval | None:
    pairs = int(arm["pairs"])
    if pairs and metric in COUNTED:
        return exactly(float(arm["difference"]), pairs)
    if pairs >= FEWEST:
        return over_seeds(float(arm["difference"]), float(arm["difference_deviation"]), pairs)
    if pairs == 1 and varies_as_fid(metric):
        base = float(arm["base"])
        return of_one_pair(base + float(arm["difference"]), base, variation)
    return None
