"""What registers changed in each arm, and how sure that is."""

from typing import Literal

import duckdb
import pandas as pd

from harness.intervals import COUNTED, FEWEST, Interval, exactly, of_one_pair, over_seeds, variation_of, varies_as_fid
from leaderboard import queries
from leaderboard.queries import Board

Verdict = Literal["", "better", "worse", "larger", "smaller", "nothing shown", "not known"]


def intervals(arms: pd.DataFrame, metric: str) -> list[Interval | None]:
    """The difference to `none` of every row of `queries.arms`; None where there is none, or nothing is known of it.

    Several seeds give Student's t over their differences.  One seed of a Fréchet distance has the interval of what
    arms of this board with several seeds vary by, and not less than the published prior; of another metric it has none.
    """
    repeated = arms[(arms["measured"] >= FEWEST) & arms["mean"].notna()]
    columns = zip(repeated["mean"], repeated["deviation"], repeated["measured"], strict=True)
    variation = variation_of([(float(mean), float(deviation), int(seeds)) for mean, deviation, seeds in columns])
    return [_interval(arm, metric, variation) for _, arm in arms.iterrows()]


def judged_arms(database: duckdb.DuckDBPyConnection, board: Board, metric: str, better: str) -> pd.DataFrame:
    """`queries.arms` with `label`, `half_width`, `low`, `high`, `method` and `verdict` of each difference.

    An arm's label is its preset, with as much of its settings as tells it from the others of its backbone.
    """
    arms = queries.arms(database, board)
    found = intervals(arms, metric)
    arms["label"] = _labels(arms)
    for name in ("half_width", "low", "high"):
        arms[name] = pd.Series([getattr(each, name, None) for each in found], index=arms.index, dtype=float)
    arms["method"] = [each.method if each else "" for each in found]
    arms["verdict"] = [
        "" if registers == "none" else verdict(each, better)
        for registers, each in zip(arms["registers"], found, strict=True)
    ]
    return arms


def verdict(interval: Interval | None, better: str) -> Verdict:
    """What a difference shows: nothing where zero lies inside its interval."""
    if interval is None:
        return "not known"
    if interval.shows_nothing:
        return "nothing shown"
    if better == "neither":
        return "larger" if interval.mean > 0 else "smaller"
    return "better" if (interval.mean > 0) == (better == "higher") else "worse"


def _labels(arms: pd.DataFrame) -> pd.Series:
    labels = arms["registers"].astype(str)
    placed = arms["count"].notna() & arms["start_block"].notna()
    tokens = arms["count"].fillna(0).astype(int).astype(str)
    blocks = arms["start_block"].fillna(0).astype(int).astype(str)
    where = (tokens + " from block " + blocks).where(placed, arms["stages"].astype(str))
    for further in (where, arms["steps"].astype(str) + " steps", arms["arm_id"].str[:6]):
        twice = pd.DataFrame({"backbone": arms["backbone"], "label": labels}).duplicated(keep=False)
        labels = labels.where(~twice, labels + ", " + further)
    return labels


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
