"""What the leaderboard's page asks of many records, in time: each of its questions, at first and again (no torch)."""

import contextlib
import shutil
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from harness import database
from harness.bench_records import BenchCase
from harness.errors import UserError
from harness.published import PUBLISHED
from harness.records import Measurement
from harness.stopwatch import seconds_of
from harness.store_bench import filled
from harness.text_table import columns
from leaderboard import queries
from leaderboard.claims import judge
from leaderboard.differences import intervals
from leaderboard.measured import Measured

AGAIN = 3


@dataclass(frozen=True)
class Answer:
    """Seconds of one question: at first, and the median of some later times."""

    question: str
    first: float
    later: float


@dataclass(frozen=True)
class BoardSpeed:
    """Seconds of every question over so many records."""

    records: int
    answers: tuple[Answer, ...]

    def shown(self) -> dict[str, Any]:
        """For machines."""
        return {"records": self.records, "answers": [asdict(answer) for answer in self.answers]}

    def report(self) -> str:
        """For a person."""
        rows = [[each.question, f"{each.first * 1000:.1f} ms", f"{each.later * 1000:.1f} ms"] for each in self.answers]
        return f"{columns([['question', 'at first', 'later'], *rows])}\n{self.records} records; median of {AGAIN} later"

    def case(self) -> BenchCase:
        """For a record."""
        times = [(each.question, {"at first": each.first, "later": each.later}) for each in self.answers]
        return BenchCase(
            title=f"{self.records} synthetic records",
            measurements=tuple(
                Measurement(name=f"{question}, {when}", value=seconds, unit="s", better="lower")
                for question, both in times
                for when, seconds in both.items()
            ),
        )


def board_speed(results: Path, count: int) -> BoardSpeed:
    """Time the board's questions over `count` synthetic records, made from those of `results` in a temporary folder.

    Claims are judged where `results` has some.  Raises UserError where it has no record.
    """
    with filled(results, count) as folder:
        if (results / PUBLISHED).is_dir():
            shutil.copytree(results / PUBLISHED, folder / PUBLISHED)
        database.rebuild(folder)
        file = folder / database.DATABASE
        opened = _answer("open the database", lambda: database.snapshot(file).close())
        with contextlib.closing(database.snapshot(file)) as connection:
            answers = [opened, *(_answer(name, ask) for name, ask in _questions(connection, folder).items())]
    return BoardSpeed(count, tuple(answers))


def _questions(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, Callable[[], Any]]:
    """Whatever the page asks for its largest board, by the functions that it asks with."""
    largest = queries.boards(connection).iloc[0]
    task, protocol = str(largest["task"]), str(largest["protocol"])
    metric = queries.metrics(connection, task, protocol).iloc[0]
    board = queries.Board(task, protocol, str(metric["key"]))
    record_id = str(queries.runs(connection, board).iloc[0]["record_id"])
    asked: dict[str, Callable[[], Any]] = {
        "boards": lambda: queries.boards(connection),
        "metrics": lambda: queries.metrics(connection, task, protocol),
        "runs": lambda: queries.runs(connection, board),
        "arms": lambda: queries.arms(connection, board),
        "arms with intervals": lambda: intervals(queries.arms(connection, board), str(metric["name"])),
        "others": lambda: queries.others(connection, board.key),
        "evaluations": lambda: queries.evaluations(connection),
        "published": lambda: queries.published(connection),
        "problems": lambda: queries.problems(connection),
        "measurements of a record": lambda: queries.measurements(connection, record_id),
        "outliers of a record": lambda: queries.outliers(connection, record_id),
        "every newest value": lambda: Measured.read(connection),
    }
    with contextlib.suppress(UserError):  # no claims here
        judge(folder)
        asked["claims, rebuild included"] = lambda: judge(folder)
    return asked


def _answer(question: str, ask: Callable[[], Any]) -> Answer:
    first, *later = [seconds_of(ask) for _ in range(1 + AGAIN)]
    return Answer(question, first, statistics.median(later))
