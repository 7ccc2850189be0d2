"""What registers changed in each arm, and how sure that is."""

from typing import Final, Literal

import duckdb
import pandas as pd

from harness.intervals import COUNTED, FEWEST, Interval, exactly, of_one_pair, over_seeds, variation_of, varies_as_fid
from leaderboard import queries
from leaderboard.queries import Board

Verdict = Literal[
    "", "helps", "harms", "one seed: a hint", "shows nothing", "changed nothing", "larger", "smaller", "not known"
]


# What the machine decides that a run happened to be on: never compared from run to run.
OF_THE_MACHINE: Final = frozenset(
    {"train_seconds", "sampling_seconds", "training_images_per_second", "peak_memory", "mfu"},
)


def intervals(arms: pd.DataFrame, metric: str) -> list[Interval | None]:
    """The difference to `none` of every row of `queries.arms`; None where there is none, or nothing is known of it.

    Several seeds give Student's t over their differences.  One seed of a Fréchet distance has the interval of what
    arms of this board with several seeds vary by, and not less than the published prior; of another metric it has none.
    Nothing is known of what the machine decides.
    """
    repeated = arms[(arms["measured"] >= FEWEST) & arms["mean"].notna()]
    columns = zip(repeated["mean"], repeated["deviation"], repeated["measured"], strict=True)
    variation = variation_of([(float(mean), float(deviation), int(seeds)) for mean, deviation, seeds in columns])
    return [_interval(arm, metric, variation) for _, arm in arms.iterrows()]


def judged_arms(database: duckdb.DuckDBPyConnection, board: Board, metric: str, better: str) -> pd.DataFrame:
    """`queries.arms` with `label`, and `share`, `half_width`, `low`, `high`, `method` and `verdict` of each difference.

    `share` is the difference in shares of the base, `mean_half_width` half of the mean's 95 % interval over seeds.  An
    arm's label is its preset, with as much of its settings as tells it from the others of its backbone.
    """
    arms = queries.arms(database, board)
    found = intervals(arms, metric)
    arms["label"] = _labels(arms)
    for name in ("half_width", "low", "high"):
        arms[name] = pd.Series([getattr(each, name, None) for each in found], index=arms.index, dtype=float)
    arms["share"] = (arms["difference"] / arms["base"].abs()).where(arms["base"] != 0)
    means = zip(arms["mean"], arms["deviation"], arms["measured"], strict=True)
    arms["mean_half_width"] = pd.Series(
        [getattr(over_seeds(mean, deviation, seeds), "half_width", None) for mean, deviation, seeds in means],
        index=arms.index,
        dtype=float,
    )
    arms["method"] = [each.method if each else "" for each in found]
    arms["verdict"] = [
        "" if registers == "none" else verdict(each, better)
        for registers, each in zip(arms["registers"], found, strict=True)
    ]
    return arms


def treatments(arms: pd.DataFrame) -> pd.DataFrame:
    """`judged_arms` with one row for those that are the same but for the name of their preset: that of most pairs.

    Its label names them all: "denoiser = dsr here".
    """
    same = arms.groupby(["none_arm_id", "treatment"], sort=False)["label"]
    arms = arms.assign(label=same.transform(lambda labels: " = ".join(labels) + " here" * (len(labels) > 1)))
    fullest = arms.sort_values("pairs", ascending=False, kind="stable").drop_duplicates(["none_arm_id", "treatment"])
    return fullest.sort_index()


def verdict(interval: Interval | None, better: str) -> Verdict:
    """What a difference shows: nothing where zero lies inside its interval, and no more than a hint for one seed.

    What is counted neither helps nor harms: it costs more or less.
    """
    if interval is None:
        return "not known"
    if interval.mean == 0 and (interval.method == "prior" or not interval.half_width):
        return "changed nothing"  # equal to the last digit: two trainings that differ at all are not
    if interval.shows_nothing:
        return "shows nothing"
    if interval.method == "prior":
        return "one seed: a hint"
    if better == "neither" or interval.method == "counted":
        return "larger" if interval.mean > 0 else "smaller"
    return "helps" if (interval.mean > 0) == (better == "higher") else "harms"


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
    if metric in OF_THE_MACHINE:
        return None
    if pairs and metric in COUNTED:
        return exactly(float(arm["difference"]), pairs)
    if pairs >= FEWEST:
        return over_seeds(float(arm["difference"]), float(arm["difference_deviation"]), pairs)
    if pairs == 1 and varies_as_fid(metric):
        base = float(arm["base"])
        return of_one_pair(base + float(arm["difference"]), base, variation)
    return None
