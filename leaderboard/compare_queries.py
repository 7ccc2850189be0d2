"""What the page "Compare" asks of a board: its arms, their runs seed by seed, and what sets them apart."""

import itertools
from collections import Counter
from collections.abc import Sequence

import duckdb
import pandas as pd

from leaderboard import queries
from leaderboard.differences import intervals, judged_arms, verdict
from leaderboard.queries import Board
from leaderboard.text import short

NAME_LIMIT = 60
_OF_RUNS = [
    *("run_id", "record_id", "backbone", "registers", "count", "start_block", "seed", "status"),
    *("value", "difference", "base", "gflops"),
]
_OF_DIFFERENCES = ["pairs", "difference", "half_width", "low", "high", "method", "verdict"]


def runs(database: duckdb.DuckDBPyConnection, board: Board) -> pd.DataFrame:
    """Every run of a board with its `arm`, a name that no other arm of the board has, and the files beside its record.

    On a board of values that registers guided, the runs without registers have the values that those are compared to.
    """
    beside = database.execute(
        """
        SELECT record_id, arm_id, none_run_id, samples, norm_maps FROM runs
        WHERE task = $task AND protocol = $protocol
        """,
        {"task": board.task, "protocol": board.protocol},
    ).df()
    found = queries.runs(database, board)[_OF_RUNS].merge(beside, on="record_id")
    bases = found.dropna(subset=["base"]).drop_duplicates("none_run_id").set_index("none_run_id")["base"]
    found["value"] = found["value"].fillna(found["run_id"].map(bases))
    found["arm"] = found["arm_id"].map(_names(judged_arms(database, board, "", "neither")))
    return found.sort_values(["backbone", "registers", "arm", "seed"], ignore_index=True)


def arms(found: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm that was measured: its mean and deviation over seeds, and its cost."""
    table: pd.DataFrame = (
        found.dropna(subset=["value"])
        .groupby(["arm_id", "arm", "backbone", "registers"], as_index=False)
        .agg(
            mean=("value", "mean"),
            deviation=("value", "std"),
            measured=("value", "count"),
            gflops=("gflops", "first"),
            count=("count", "first"),
        )
    )
    return table.sort_values(["backbone", "registers", "arm"], ignore_index=True)


def pairwise(found: pd.DataFrame, picked: Sequence[str], metric: str, better: str) -> pd.DataFrame:
    """The difference of every two picked arms, second less first, over the seeds that both have a value of.

    Columns: first, second, pairs, and as of `judged_arms` difference, half_width, low, high, method, verdict.  How much
    one training varies is taken from all arms of the board that were repeated.
    """
    values = found.pivot_table(index="seed", columns="arm", values="value", aggfunc="first")
    named = [arm for arm in picked if arm in values]
    table = pd.DataFrame([_pair(values, first, second) for first, second in itertools.combinations(named, 2)])
    if table.empty:
        return pd.DataFrame(columns=["first", "second", *_OF_DIFFERENCES])
    repeated = arms(found)[["mean", "deviation", "measured"]].assign(pairs=0)
    judged = intervals(pd.concat([repeated, table.assign(measured=0)], ignore_index=True), metric)[len(repeated) :]
    for name in ("half_width", "low", "high"):
        table[name] = pd.Series([getattr(each, name, None) for each in judged], dtype=float)
    table["method"] = [each.method if each else "" for each in judged]
    table["verdict"] = [verdict(each, better) for each in judged]
    return table[["first", "second", *_OF_DIFFERENCES]]


def over_backbones(judged: pd.DataFrame, preset: str) -> pd.DataFrame:
    """What one preset changes on each backbone, from `judged_arms`: difference to none, in values and as a share.

    Columns: name, share (of the mean without registers), and those of a difference.
    """
    table = judged[(judged["registers"] == preset) & (judged["pairs"] > 0)]
    names = _names(table)
    table = table.assign(name=table["arm_id"].map(names), share=table["difference"] / table["base"])
    return table[["name", *_OF_DIFFERENCES, "share"]].reset_index(drop=True)


def front(table: pd.DataFrame, better: str) -> list[str]:
    """The arms that no other one of `arms` beats in both quality and GFLOPs, the cheapest first (Pareto).

    One beats another that is no worse in either and better in one.  Empty where no direction is better.
    """
    if better == "neither":
        return []
    known = table.dropna(subset=["gflops"])
    sign = 1 if better == "lower" else -1
    points = sorted(zip(known["gflops"], sign * known["mean"], known["arm"], strict=True))
    return [
        arm
        for gflops, loss, arm in points
        if not any(g <= gflops and other <= loss and (g, other) != (gflops, loss) for g, other, _ in points)
    ]


def curves(database: duckdb.DuckDBPyConnection, found: pd.DataFrame) -> pd.DataFrame:
    """The training loss of runs by arm and step: mean, and the least and the most of any seed."""
    return database.execute(
        """
        WITH picked AS (SELECT unnest($records) AS record_id, unnest($arms) AS arm)
        SELECT arm, step, avg(loss) AS loss, min(loss) AS least, max(loss) AS most, count(*) AS seeds
        FROM picked JOIN loss_curves USING (record_id)
        GROUP BY arm, step ORDER BY arm, step
        """,
        {"records": found["record_id"].tolist(), "arms": found["arm"].tolist()},
    ).df()


def effects(found: pd.DataFrame, backbone: str, preset: str) -> pd.DataFrame:
    """The difference to none by count and start block: mean over all pairs of the cell, and how many there are."""
    of_preset = found[(found["backbone"] == backbone) & (found["registers"] == preset)]
    known = of_preset.dropna(subset=["count", "start_block", "difference"])
    return known.groupby(["count", "start_block"], as_index=False).agg(
        difference=("difference", "mean"), pairs=("difference", "count")
    )


def depth(database: duckdb.DuckDBPyConnection, board: Board, backbone: str) -> int | None:
    """How many blocks a backbone of the board has, by where its norms were taken; None where none were."""
    row = database.execute(
        """
        SELECT max(block) + 1 FROM outliers JOIN runs USING (record_id)
        WHERE task = $task AND protocol = $protocol AND exact_name = $backbone
        """,
        {"task": board.task, "protocol": board.protocol, "backbone": backbone},
    ).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def _pair(values: pd.DataFrame, first: str, second: str) -> dict[str, object]:
    both = values[[first, second]].dropna()
    apart = both[second] - both[first]
    return {
        "first": first,
        "second": second,
        "pairs": len(both),
        "difference": apart.mean() if len(both) else None,
        "difference_deviation": apart.std(),
        "base": both[first].mean() if len(both) else None,
    }


def _names(judged: pd.DataFrame) -> dict[str, str]:
    """A name for every arm, by its id; arms that would be called the same once shortened show a part of the id."""
    names = {
        str(arm.arm_id): f"{short(str(arm.backbone), NAME_LIMIT)} {short(str(arm.label), NAME_LIMIT)}"
        for arm in judged.itertuples()
    }
    called = Counter(names.values())
    return {arm_id: name if called[name] == 1 else f"{name} [{arm_id[:6]}]" for arm_id, name in names.items()}
