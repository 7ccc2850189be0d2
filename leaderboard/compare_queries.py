"""What the page "Compare" asks of a board: its arms, their runs seed by seed, and what sets them apart."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import duckdb
import pandas as pd

from harness.intervals import FEWEST
from leaderboard import queries
from leaderboard.differences import intervals, judged_arms, verdict
from leaderboard.queries import Board
from leaderboard.text import short

NAME_LIMIT = 60
ID_LENGTH = 6
_OF_RUNS = [
    *("run_id", "record_id", "backbone", "registers", "count", "start_block", "seed", "steps", "status"),
    *("value", "difference", "base", "third_party", "gflops"),
]
_OF_DIFFERENCES = ["pairs", "difference", "half_width", "low", "high", "method", "verdict"]


def runs(database: duckdb.DuckDBPyConnection, board: Board) -> pd.DataFrame:
    """Every run of a board with its `arm_id`, and the files beside its record; a foreign backbone is named by its file.

    Runs of one `setting` have everything in common but registers and seed.  On a board of values that registers guided,
    the runs without registers have the values that those are compared to.
    """
    beside = database.execute(
        """
        SELECT record_id, arm_id, none_arm_id AS setting, none_run_id, samples, norm_maps FROM runs
        WHERE task = $task AND protocol = $protocol
        """,
        {"task": board.task, "protocol": board.protocol},
    ).df()
    found = queries.runs(database, board)[_OF_RUNS].merge(beside, on="record_id")
    bases = found.dropna(subset=["base"]).drop_duplicates("none_run_id").set_index("none_run_id")["base"]
    found["value"] = found["value"].fillna(found["run_id"].map(bases))
    found["backbone"] = found["backbone"].where(
        found["third_party"].isna(), found["backbone"] + ": " + found["third_party"].astype(str)
    )
    return found


def named_runs(database: duckdb.DuckDBPyConnection, board: Board, metric: str, better: str) -> pd.DataFrame:
    """`named` of a board's runs."""
    return named(runs(database, board), judged_arms(database, board, metric, better))


def named(found: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """`runs` in the order of `judged_arms`, with its `label`, and as `arm` a name that no other arm has."""
    backbones = found.drop_duplicates("arm_id").set_index("arm_id")["backbone"].to_dict()
    labels = dict(zip(judged["arm_id"], judged["label"], strict=True))
    names = _names({arm_id: backbones[arm_id] for arm_id in labels}, labels)
    places = {arm_id: place for place, arm_id in enumerate(labels)}
    found = found.assign(
        arm=found["arm_id"].map(names), label=found["arm_id"].map(labels), place=found["arm_id"].map(places)
    )
    return found.sort_values(["place", "seed"], ignore_index=True)


def arms(found: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm of `named` that was measured, in its order: its mean and deviation over seeds, and its cost.

    An arm `has_other_length` that was trained for another number of steps than its backbone is without registers.
    """
    table: pd.DataFrame = (
        found.dropna(subset=["value"])
        .groupby(["place", "arm_id", "arm", "label", "backbone", "registers"], as_index=False)
        .agg(
            mean=("value", "mean"),
            deviation=("value", "std"),
            measured=("value", "count"),
            gflops=("gflops", "first"),
            count=("count", "first"),
            steps=("steps", "first"),
        )
    )
    plain_first = table.assign(is_treated=table["registers"] != "none", rare=-table["measured"])
    usual = plain_first.sort_values(["is_treated", "rare", "place"]).groupby("backbone")["steps"].first()
    return table.assign(has_other_length=table["steps"] != table["backbone"].map(usual))


def pairwise(
    found: pd.DataFrame, measured: pd.DataFrame, picked: Sequence[str], metric: str, better: str
) -> pd.DataFrame:
    """The difference of every two picked arms, second less first, over the seeds that both have a value of.

    In whatever order they were picked: what has no registers is subtracted, and else what comes first on the board.
    Columns: first, second, pairs, and as of `judged_arms` difference, half_width, low, high, method, verdict.
    Between two backbones nothing helps or harms: one is larger.  How much one training varies is taken from all arms of
    the board that were repeated; `measured` is the table of its arms.
    """
    of_picked = found[found["arm"].isin(picked)]
    values = of_picked.pivot_table(index="seed", columns="arm", values="value", aggfunc="first")
    order = of_picked.assign(is_treated=of_picked["registers"] != "none").sort_values(["is_treated", "place"])
    listed = [arm for arm in dict.fromkeys(order["arm"]) if arm in values]
    table = pd.DataFrame([_pair(values, first, second) for first, second in itertools.combinations(listed, 2)])
    if table.empty:
        return pd.DataFrame(columns=["first", "second", *_OF_DIFFERENCES])
    repeated = measured[measured["measured"] >= FEWEST][["mean", "deviation", "measured"]].assign(pairs=0)
    judged = intervals(pd.concat([repeated, table.assign(measured=0)], ignore_index=True), metric)[len(repeated) :]
    for name in ("half_width", "low", "high"):
        table[name] = pd.Series([getattr(each, name, None) for each in judged], dtype=float)
    table["method"] = [each.method if each else "" for each in judged]
    backbones = measured.set_index("arm")["backbone"]
    within = [
        backbones[first] == backbones[second] for first, second in zip(table["first"], table["second"], strict=True)
    ]
    table["verdict"] = [verdict(each, better if same else "neither") for each, same in zip(judged, within, strict=True)]
    return table[["first", "second", *_OF_DIFFERENCES]]


def over_backbones(judged: pd.DataFrame, names: Mapping[str, str], preset: str) -> pd.DataFrame:
    """What one preset changes on each backbone, from `judged_arms`: difference to none, in values and as a share.

    `names` are those of arms by their ids.  Columns: name, share (of the mean without registers), and those of a
    difference.
    """
    table = judged[(judged["registers"] == preset) & (judged["pairs"] > 0)]
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


def settings(found: pd.DataFrame) -> dict[str, str]:
    """The settings of `named` runs with a name for each: the backbone, and what tells it from its others."""
    table = found.drop_duplicates("setting")
    names = table["backbone"].astype(str)
    for further in (table["steps"].astype(str) + " steps", table["setting"].str[:ID_LENGTH]):
        names = names.where(~names.duplicated(keep=False), names + ", " + further)
    return dict(zip(table["setting"], names, strict=True))


def effects(judged: pd.DataFrame, found: pd.DataFrame, setting: str, preset: str) -> pd.DataFrame:
    """The arms of one setting and preset with tokens, each with its difference to none, by count and start block.

    Columns: tokens (the count in words), start_block, and those of a difference.  Arms that differ in something else
    have the beginnings of their ids behind the count.
    """
    of_setting = set(found[(found["setting"] == setting) & (found["registers"] == preset)]["arm_id"])
    cells = judged[judged["arm_id"].isin(of_setting) & (judged["pairs"] > 0)]
    cells = cells.dropna(subset=["count", "start_block"]).sort_values(["count", "start_block", "arm_id"])
    tokens = cells["count"].astype(int).astype(str)
    is_shared = cells.duplicated(["count", "start_block"], keep=False)
    cells = cells.assign(tokens=tokens.where(~is_shared, tokens + " [" + cells["arm_id"].str[:ID_LENGTH] + "]"))
    return cells[["tokens", "start_block", *_OF_DIFFERENCES]].reset_index(drop=True)


def config_of(database: duckdb.DuckDBPyConnection, record_id: str) -> str:
    """The configuration of a run, as JSON."""
    found = database.execute("SELECT config FROM runs WHERE record_id = $1", [record_id]).fetchone()
    assert found is not None, "a record that the database does not hold"
    return str(found[0])


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


def _names(backbones: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, str]:
    """A name for every arm, by its id; arms that would be called the same once shortened show a part of the id."""
    names = {
        arm_id: f"{short(backbones[arm_id], NAME_LIMIT)} {short(label, NAME_LIMIT)}" for arm_id, label in labels.items()
    }
    called = Counter(names.values())
    return {arm_id: name if called[name] == 1 else f"{name} [{arm_id[:ID_LENGTH]}]" for arm_id, name in names.items()}
