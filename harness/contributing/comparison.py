"""What a pull request's results change on the board, as plain text: `python -m harness.contributing.comparison`.

The workflow "records" runs it, with the code of the base and the files of both (no torch).
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from harness.database import DATABASE, rebuild, snapshot
from harness.errors import UserError, disk_error
from harness.files import sha256_of, write_text
from harness.intervals import Interval
from harness.text_table import columns, counted
from leaderboard import queries
from leaderboard.differences import intervals
from leaderboard.queries import Board
from leaderboard.table import difference

KINDS = {".json", ".png", ".safetensors"}
MOST_LINES, LONGEST_TEXT, LONGEST_REASON = 50, 80, 400


@dataclass(frozen=True)
class Side:
    """The results before or after: files by their paths, with their digests, and what they say together."""

    files: Mapping[str, str]
    problems: Mapping[str, str]
    database: duckdb.DuckDBPyConnection


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the comparison of two results folders, or why there is none: the text is all that a reader gets to see.

    Returns 0, or 2 where there is none.
    """
    parser = argparse.ArgumentParser(prog="python -m harness.contributing.comparison", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="the results as they are")
    parser.add_argument("--head", type=Path, required=True, metavar="DIR", help="the results as they would be")
    parser.add_argument("--verdict", type=Path, metavar="FILE", help="what `validate --json` said of them")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the text goes")
    options = parser.parse_args(arguments)
    said = [] if options.verdict is None else verdict(options.verdict, options.head)
    try:
        compared, code = compare(options.base, options.head), 0
    except UserError as error:
        compared, code = f"The results could not be compared:\n{_told(error)}", 2
    write_text(options.out, "\n\n".join([*said, compared]) + "\n")
    return code


def compare(base: Path, head: Path) -> str:
    """New and changed files, the arms that they move on each board, and the new runs, in plain text.

    Neither folder is written to, and links in them are not followed.  Raises UserError where one is no folder.
    """
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        before = stack.enter_context(_opened(base, Path(place) / "base"))
        after = stack.enter_context(_opened(head, Path(place) / "head"))
        sections = [_files(before, after), *_boards(before, after), _new_runs(before, after), _left_out(before, after)]
        return "\n\n".join(section for section in sections if section)


def verdict(file: Path, head: Path) -> list[str]:
    """What `validate --json` found in `head`, a section for faults and one for remarks.

    Where `validate` could not do its work it leaves no JSON, and that is said.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError):
        return ["The files could not be validated: the log of the job says why."]
    faults = [_sentence(head, fault, "problem", "remedy") for fault in found["faults"]]
    remarks = [_sentence(head, remark, "says") for remark in found["remarks"]]
    refused = f"Refused, for {counted(len(faults), 'fault')}:" if faults else "Every file passes the checks."
    said = [_titled(refused, faults)]
    return [*said, _titled("Remarks:", remarks)] if remarks else said


def _told(error: UserError) -> str:
    return f"{plain(error.problem, LONGEST_REASON)}: {plain(error.remedy, LONGEST_REASON)}"


def _sentence(head: Path, found: Mapping[str, str], *fields: str) -> str:
    said = (found["path"].removeprefix(f"{head}/"), *(found[field] for field in fields))
    return ": ".join(plain(text, LONGEST_REASON) for text in said)


def plain(text: Any, limit: int = LONGEST_TEXT) -> str:
    """Any value in one line without characters that hide, turn around or control anything."""
    shown = "".join(each if each.isprintable() else "?" for each in str(text))
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


@contextlib.contextmanager
def _opened(results: Path, place: Path) -> Iterator[Side]:
    if results.is_symlink() or not results.is_dir():
        raise UserError(f"{results} is no folder with results", "name the results/ of a checkout")
    files = _copied(results, place)
    index = rebuild(place)
    problems = {problem.path.relative_to(place).as_posix(): problem.reason for problem in index.problems}
    with contextlib.closing(snapshot(place / DATABASE)) as database:
        yield Side(files, problems, database)


def _copied(results: Path, place: Path) -> dict[str, str]:
    """Put the files of a checkout where a database may be built: a link in it could lead that anywhere."""
    place.mkdir()
    digests = {}
    for path in _regular(results):
        name = path.relative_to(results)
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place / name, follow_symlinks=False)
        digests[name.as_posix()] = sha256_of(place / name)
    return digests


def _regular(results: Path) -> Iterator[Path]:
    try:
        for folder, _, names in os.walk(results, followlinks=False):
            paths = (Path(folder) / name for name in sorted(names))
            yield from (path for path in paths if path.suffix in KINDS and path.is_file() and not path.is_symlink())
    except OSError as error:
        raise disk_error(results, error) from error


def _files(before: Side, after: Side) -> str:
    new = after.files.keys() - before.files.keys()
    gone = sorted(before.files.keys() - after.files.keys())
    changed = sorted(name for name, digest in before.files.items() if after.files.get(name, digest) != digest)
    told = [f"{counted(len(new), 'new file')}, {len(changed)} changed, {len(gone)} gone; {len(before.files)} before."]
    told += [_titled("Changed:", map(plain, changed))] if changed else []
    told += [_titled("Gone:", map(plain, gone))] if gone else []
    return "\n\n".join(told)


def _boards(before: Side, after: Side) -> list[str]:
    """A table for each board on which an arm is new or another; by its first metric, the one that judges images."""
    found = []
    for task, protocol in queries.boards(after.database)[["task", "protocol"]].itertuples(index=False):
        judged = queries.metrics(after.database, task, protocol)
        if judged.empty:
            continue
        metric = judged.iloc[0]
        board = Board(task, protocol, str(metric["key"]))
        was, now = (_arms(side.database, board, str(metric["name"])) for side in (before, after))
        moved = [arm for arm in now if arm not in was or now[arm].numbers != was[arm].numbers]
        if not moved:
            continue
        head = ["backbone", "registers", "seeds", "before", "after", "difference to none (95 %)"]
        rows = [_row(was.get(arm), now[arm]) for arm in moved]
        title = f"{plain(task)}: {plain(metric['title'])}, {plain(metric['better'])} is better\n{plain(protocol, 200)}"
        found.append(f"{title}\n\n{_shortened(columns([head, *rows]).splitlines(), 1)}")
    return found


@dataclass(frozen=True)
class _Arm:
    """What a board says of one arm, in words; `numbers` are what is its own, whatever the others vary by."""

    backbone: str
    registers: str
    runs: int
    value: str
    difference: str
    numbers: str


def _arms(database: duckdb.DuckDBPyConnection, board: Board, metric: str) -> dict[str, _Arm]:
    """The arms of a board by their ids, in the order of their names."""
    runs = queries.runs(database, board)
    if runs.empty:
        return {}
    arms = (
        runs.groupby(["backbone", "registers", "arm_id"])
        .agg(
            count=("count", "first"),
            start_block=("start_block", "first"),
            runs=("run_id", "size"),
            measured=("value", "count"),
            mean=("value", "mean"),
            deviation=("value", "std"),
            pairs=("difference", "count"),
            difference=("difference", "mean"),
            difference_deviation=("difference", "std"),
            base=("base", "mean"),
        )
        .reset_index()
    )
    found = zip(arms.iterrows(), intervals(arms, metric), strict=True)
    return {str(arm["arm_id"]): _arm(arm, interval) for (_, arm), interval in found}


def _arm(arm: pd.Series, interval: Interval | None) -> _Arm:
    placed = "" if pd.isna(arm["count"]) else f": {int(arm['count'])} from block {int(arm['start_block'])}"
    return _Arm(
        backbone=plain(arm["backbone"]),
        registers=plain(arm["registers"]) + placed,
        runs=int(arm["runs"]),
        value=_value(arm),
        difference=difference(arm, interval).replace("*", ""),
        numbers=str(arm.to_dict()),
    )


def _value(arm: pd.Series) -> str:
    if not arm["measured"]:
        return "not measured"
    return f"{arm['mean']:.4g}" + ("" if arm["measured"] == 1 else f" ± {arm['deviation']:.2g}")


def _row(was: _Arm | None, now: _Arm) -> list[str]:
    seeds = f"{was.runs} -> {now.runs}" if was and was.runs != now.runs else str(now.runs)
    return [now.backbone, now.registers, seeds, was.value if was else "new", now.value, now.difference]


def _new_runs(before: Side, after: Side) -> str:
    found = after.database.execute(
        "SELECT path, exact_name, registers, seed, status FROM runs ORDER BY path"
    ).fetchall()
    new = [row for row in found if row[0] not in before.files]
    return (
        _titled("New runs:", columns([[plain(cell, 160) for cell in row] for row in new]).splitlines()) if new else ""
    )


def _left_out(before: Side, after: Side) -> str:
    new = {path: reason for path, reason in after.problems.items() if path not in before.problems}
    told = [f"{plain(path, 160)}: {plain(reason, LONGEST_REASON)}" for path, reason in sorted(new.items())]
    return _titled("Left out, as they are no valid records:", told) if told else ""


def _titled(title: str, lines: Any) -> str:
    return f"{title}\n{_shortened(list(lines), 0)}".rstrip()


def _shortened(lines: list[str], headers: int) -> str:
    most = MOST_LINES + headers
    more = [f"... and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join([*lines[:most], *more])


if __name__ == "__main__":
    sys.exit(main())
