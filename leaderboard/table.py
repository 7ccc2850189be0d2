"""A task's measured results as a Markdown table: the README's is made here."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pandas as pd

from harness.comparability import Key
from harness.database import DATABASE, rebuild, snapshot
from harness.errors import UserError
from harness.files import write_text
from harness.intervals import Interval, varies_as_fid
from harness.metrics.geneval.prompt import TAGS
from leaderboard import queries
from leaderboard.differences import intervals
from leaderboard.geneval_queries import OVERALL, OVERALLS, PERCENT, TITLES
from leaderboard.queries import Board

IN_ENCODER = " in encoder"
NATIVE = re.compile(r" \+ \d+ native tokens")
EXPLAINED = "mean ± standard deviation over seeds. A difference in italics has zero in its interval, and shows nothing."
OF_ONE_SEED = "One seed has the interval of what repeated arms vary by here, and not less than the published 1.3 %."
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"


@dataclass(frozen=True)
class _Column:
    """A metric as the table shows it: under which title, in which style, and times what."""

    metric: str
    title: str
    style: str = ".2f"
    scale: float = 1.0


# The metrics that tasks here are judged by, and what stands beside each.
_HEADLINES: Mapping[str, _Column] = {
    "fd_digits": _Column("fd_digits", "FD-digits"),
    **{overall: _Column(overall, f"{TITLES[OVERALL].lower()} %", ".1f", PERCENT) for overall in OVERALLS},
}
_BESIDE: Mapping[str, Sequence[_Column]] = {
    "fd_digits": (_Column("digits_accuracy", "accuracy", ".3f"),),
    **{
        overall: tuple(_Column(f"{overall}_{tag}", f"{TITLES[tag].lower()} %", ".1f", PERCENT) for tag in TAGS)
        for overall in OVERALLS
    },
}
_OUTLIERS = _Column("outlier_max_over_median", "largest token norm / median")


def markdown(results: Path, task: str) -> str:
    """One row per arm of the task's largest board: the metric over seeds, and the paired difference to `none`.

    Raises UserError where nothing of that task has been measured.
    """
    rebuild(results)
    with contextlib.closing(snapshot(results / DATABASE)) as database:
        boards = queries.boards(database)
        mine = boards[boards["task"] == task]
        if mine.empty:
            raise UserError(f"nothing of task {task!r} is in {results}", "run something first, or name --results")
        protocol = str(mine.iloc[0]["protocol"])
        measured = queries.metrics(database, task, protocol).drop_duplicates("name").set_index("name")
        headline = _headline(measured)
        columns = [*_BESIDE.get(headline.metric, ()), _OUTLIERS]
        keys = [str(measured["key"].get(each.metric, "")) for each in (headline, *columns)]
        found = [queries.arms(database, Board(task, protocol, key)) for key in keys]
        left_out = _left_out(database, headline.metric, keys[0])
    main, *others = map(_scaled, found, (headline, *columns))
    changes = intervals(main, headline.metric)
    head = ["backbone", "registers", "seeds", headline.title, "difference to none (95 % CI)"]
    head += [*(column.title for column in columns), "GFLOPs"]
    rows = [
        [
            *_of_arm(arm),
            _mean(arm, headline.style),
            difference(arm, changes[i]),
            *(_mean(other.iloc[i], column.style) for column, other in zip(columns, others, strict=True)),
            f"{arm['gflops']:.5f}",
        ]
        for i, (_, arm) in enumerate(main.iterrows())
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    lines.insert(1, "|---" * len(head) + "|")
    explained = f"{EXPLAINED} {OF_ONE_SEED}" if varies_as_fid(headline.metric) else EXPLAINED
    return "\n".join([*lines, "", f"Protocol: {protocol}; {explained}", *left_out])


def _headline(measured: pd.DataFrame) -> _Column:
    """The first of a board's metrics, which are sorted by what they say of images."""
    first = measured.iloc[0]
    metric = str(first.name)
    known = _HEADLINES.get(metric, _Column(metric, first["title"]))
    return replace(known, title=f"{known.title}, {first['better']} is better")


def _scaled(arms: pd.DataFrame, column: _Column) -> pd.DataFrame:
    values = ["mean", "deviation", "difference", "difference_deviation", "base"]
    return arms.assign(**{name: arms[name] * column.scale for name in values})


def _left_out(database: duckdb.DuckDBPyConnection, metric: str, key: str) -> list[str]:
    """What is not compared with the table's values, and why not."""
    others = queries.others(database, key)
    if others.empty:
        return []
    mine = Key.model_validate_json(queries.fields_of(database, key))
    reasons = sorted({"; ".join(mine.differences(Key.model_validate_json(fields))) for fields in others["fields"]})
    return ["", f"{others['records'].sum()} values of {metric} are not comparable with these: {' | '.join(reasons)}."]


def write_between_markers(file: Path, text: str, task: str) -> None:
    """Replace what stands between the table's two markers in a file.  Raises UserError where they are not there."""
    begin = BEGIN.format(task)
    content = file.read_text(encoding="utf-8") if file.is_file() else ""
    before, found, rest = content.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise UserError(f"{file} has no place for the table", f"put the lines {begin} and {END} where it should stand")
    write_text(file, f"{before}{begin}\n\n{text}\n\n{END}{after}")


def difference(arm: pd.Series, found: Interval | None) -> str:
    """The mean paired difference with its interval, in italics where that holds zero; or why there is none."""
    if arm["registers"] == "none":
        return ""
    if found is None:
        return f"{arm['difference']:+.2f} (one seed)" if arm["pairs"] else "no matched run"
    seeds = " (one seed)" if found.method == "prior" else ""
    text = f"{found.mean:+.2f} ± {found.half_width:.2f}{seeds}"
    return f"*{text}*" if found.shows_nothing else text


def _of_arm(arm: pd.Series) -> list[str]:
    seeds = f"{arm['runs']}" + (f" ({arm['diverged']} diverged)" if arm["diverged"] else "")
    return [arm["backbone"], _registers(arm), seeds]


def _registers(arm: pd.Series) -> str:
    found = NATIVE.search(arm["stages"])
    native = found.group() if found else ""
    if arm["registers"] == "none":
        return f"none{native}"
    in_encoder = [stage for stage in arm["stages"].split(", ") if stage.endswith(IN_ENCODER)]
    if not pd.isna(arm["count"]):
        in_encoder.append(f"{int(arm['count'])} from block {int(arm['start_block'])}")
    return f"{arm['registers']}{': ' if in_encoder else ''}{', '.join(in_encoder)}{native}"


def _mean(arm: pd.Series, style: str) -> str:
    if not arm["measured"]:
        return "not measured"
    spread = "" if arm["measured"] == 1 else f" ± {arm['deviation']:{style}}"
    return f"{arm['mean']:{style}}{spread}"
