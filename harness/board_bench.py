"""What the leaderboard does with many records, in time: its server's pages and filters, and every question."""

import contextlib
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from harness import database
from harness.bench_records import BenchCase
from harness.board_visitor import served
from harness.errors import UserError
from harness.published import PUBLISHED
from harness.records import Measurement
from harness.stopwatch import seconds_of
from harness.store_bench import filled
from harness.text_table import columns
from leaderboard import queries
from leaderboard.claims import judgements
from leaderboard.differences import intervals

AGAIN: Final = 3

# Pages by their addresses.
PAGES: Final = {
    "": "Leaderboard",
    "compare": "Compare",
    "outliers": "Outliers",
    "geneval": "Text to image",
    "claims": "Claims",
    "run": "Run",
    "submit": "Submit",
}

# Seconds within which a server has to answer.
COLD_START: Final = 3.0
CLICK: Final = 0.5
EXPLAINED: Final = (
    "the server: Streamlit's own, in a process of its own on this machine, over a database that is built already.\n"
    "start to first table: from the start of that process to the first table's last byte at a visitor without a "
    "browser.\nall else: from a visitor's message to the end of all that the page's script sends for it, asked of this "
    "server for the first time."
)


@dataclass(frozen=True)
class Answer:
    """Seconds of one question: at first, and the median of some later times."""

    question: str
    first: float
    later: float


@dataclass(frozen=True)
class Visit:
    """Seconds that the server took for what a visitor did, and within how many it has to (None: it need not)."""

    what: str
    seconds: float
    limit: float | None

    @property
    def cells(self) -> list[str]:
        """For a person."""
        limit = "" if self.limit is None else f"{self.limit:g} s"
        kept = "" if self.limit is None else "kept" if self.seconds < self.limit else "exceeded"
        return [self.what, f"{self.seconds:.3f} s", limit, kept]


@dataclass(frozen=True)
class BoardSpeed:
    """Seconds of every visit and every question over so many records."""

    records: int
    visits: tuple[Visit, ...]
    answers: tuple[Answer, ...]

    def shown(self) -> dict[str, Any]:
        """For machines."""
        return {
            "records": self.records,
            "visits": [asdict(visit) for visit in self.visits],
            "answers": [asdict(answer) for answer in self.answers],
        }

    def report(self) -> str:
        """For a person."""
        rows = [[each.question, f"{each.first * 1000:.1f} ms", f"{each.later * 1000:.1f} ms"] for each in self.answers]
        return "\n".join(
            [
                columns([["server", "seconds", "limit", ""], *(visit.cells for visit in self.visits)]),
                EXPLAINED,
                "",
                columns([["question", "at first", "later"], *rows]),
                f"{self.records} records; median of {AGAIN} later",
            ]
        )

    def case(self) -> BenchCase:
        """For a record."""
        seconds = {visit.what: visit.seconds for visit in self.visits}
        for each in self.answers:
            seconds |= {f"{each.question}, at first": each.first, f"{each.question}, later": each.later}
        return BenchCase(
            title=f"{self.records} synthetic records",
            measurements=tuple(
                Measurement(name=name, value=value, unit="s", better="lower") for name, value in seconds.items()
            ),
        )


def board_speed(results: Path, count: int) -> BoardSpeed:
    """Time the board over `count` synthetic records, made from those of `results` in a temporary folder.

    Claims are judged where `results` has some.  Raises UserError where it has no record.
    """
    with filled(results, count) as folder:
        if (results / PUBLISHED).is_dir():
            shutil.copytree(results / PUBLISHED, folder / PUBLISHED)
        rebuild = Visit("the database is rebuilt", seconds_of(lambda: database.rebuild(folder)), None)
        visits = (rebuild, *_visits(folder))
        file = folder / database.DATABASE
        opened = _answer("open the database", lambda: database.snapshot(file).close())
        with contextlib.closing(database.snapshot(file)) as connection:
            answers = [opened, *(_answer(name, ask) for name, ask in _questions(connection).items())]
    return BoardSpeed(count, visits, tuple(answers))


def _visits(folder: Path) -> Iterator[Visit]:
    """Every page of a fresh server, and every filter of each turned by a visitor of its own."""
    with served(folder) as server:
        with server.visited("") as visitor:
            assert visitor.shown.first_table is not None, "the first page has a table"
            yield Visit("start to first table", server.started + visitor.shown.first_table, COLD_START)
            yield Visit("start to whole first page", server.started + visitor.shown.whole, None)
        for page, name in PAGES.items():
            with server.visited(page) as visitor:
                widgets = visitor.shown.widgets
                yield Visit(name if page else f"{name} again", visitor.shown.whole, CLICK)
            for label, widget in widgets.items():
                with server.visited(page) as visitor:
                    yield Visit(f"{name}: {label}", visitor.turn(widget).whole, CLICK)


def _questions(connection: duckdb.DuckDBPyConnection) -> dict[str, Callable[[], Any]]:
    """What the pages ask for their largest board, by the functions that they ask with."""
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
    }
    with contextlib.suppress(UserError):  # no claims here
        judgements(connection)
        asked["claims"] = lambda: judgements(connection)
    return asked


def _answer(question: str, ask: Callable[[], Any]) -> Answer:
    first, *later = [seconds_of(ask) for _ in range(1 + AGAIN)]
    return Answer(question, first, statistics.median(later))
