"""A task's measured results as a Markdown table: the README's is made here."""

import contextlib
import re
from pathlib import Path

import duckdb
import pandas as pd

from harness.comparability import Key
from harness.database import DATABASE, rebuild, snapshot
from harness.errors import UserError
from harness.files import write_text
from harness.intervals import Interval
from leaderboard import queries
from leaderboard.differences import intervals
from leaderboard.queries import Board

HEADLINE, SECOND, OUTLIERS = "fd_digits", "digits_accuracy", "outlier_max_over_median"
IN_ENCODER = " in encoder"
NATIVE = re.compile(r" \+ \d+ native tokens")
EXPLAINED = (
    "mean ± standard deviation over seeds. A difference in italics has zero in its interval, and shows nothing. One "
    "seed has the interval of what repeated arms vary by here, and not less than the published 1.3 %."
)
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"


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
        keys = queries.metrics(database, task, protocol).drop_duplicates("name").set_index("name")["key"]
        left_out = _left_out(database, str(keys.get(HEADLINE, "")))
        by_metric = {
            name: queries.arms(database, Board(task, protocol, str(keys.get(name, ""))))
            for name in (HEADLINE, SECOND, OUTLIERS)
        }
    header = (
        "| backbone | registers | seeds | FD-digits, lower is better | difference to none (95 % CI) "
        "| accuracy | largest token norm / median | GFLOPs |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    main, accuracy, norms = by_metric[HEADLINE], by_metric[SECOND], by_metric[OUTLIERS]
    changes = intervals(main, HEADLINE)
    rows = [_row(main.iloc[i], changes[i], accuracy.iloc[i], norms.iloc[i]) for i in range(len(main))]
    return "\n".join([header, *rows, "", f"Protocol: {protocol}; {EXPLAINED}", *left_out])


def _left_out(database: duckdb.DuckDBPyConnection, key: str) -> list[str]:
    """What is not compared with the table's values, and why not."""
    others = queries.others(database, key)
    if others.empty:
        return []
    mine = Key.model_validate_json(queries.fields_of(database, key))
    reasons = sorted({"; ".join(mine.differences(Key.model_validate_json(fields))) for fields in others["fields"]})
    return ["", f"{others['records'].sum()} values of {HEADLINE} are not comparable with these: {' | '.join(reasons)}."]


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


def _row(arm: pd.Series, changed: Interval | None, accuracy: pd.Series, norms: pd.Series) -> str:
    seeds = f"{arm['runs']}" + (f" ({arm['diverged']} diverged)" if arm["diverged"] else "")
    cells = [
        arm["backbone"],
        _registers(arm),
        seeds,
        _mean(arm, ".2f"),
        difference(arm, changed),
        _mean(accuracy, ".3f"),
        _mean(norms, ".2f"),
        f"{arm['gflops']:.5f}",
    ]
    return f"| {' | '.join(cells)} |"


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
