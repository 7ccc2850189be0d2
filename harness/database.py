"""Rebuild from all records the database that everything queries (no torch)."""

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from harness import database_rows as rows
from harness.bench_records import BENCH, read_benches
from harness.contributing.refusals import refusals
from harness.database_rows import Columns, Row
from harness.errors import UserError, disk_error
from harness.evaluation_store import EVALUATIONS, read_each_evaluation
from harness.published import (
    CLAIM_COLUMNS,
    CLAIMS,
    PUBLISHED,
    PUBLISHED_COLUMNS,
    Published,
    claim_rows,
    published_rows,
    read_published,
)
from harness.record_rows import take_all
from harness.store import MEASURED, Problem
from harness.withdrawals import WITHDRAWN, read_withdrawals, withdrawn_paths

DATABASE = "leaderboard.duckdb"

# So many rows or numbers of a table wait in memory at most, whatever number of records there is, and those of the
# files that are read at once.
ROWS_HELD = 4_000
NUMBERS_HELD = 200_000

# What DuckDB has not committed it keeps in memory; what it commits in small pieces it writes again and again.
COMMITTED_AT_ONCE = 2_000

# A second thread of DuckDB gains nothing beside the reading of records; what exceeds the memory waits beside the file.
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {"threads": 1, "memory_limit": "128MB"}

# A run that was repeated has several records: the newest counts, never the best.  A later evaluation of a run's own
# samples counts as the run's, under the conditions that it was made with, unless the run was made anew after it: record
# ids begin with their time.
_VIEWS = """
CREATE VIEW newest AS
SELECT * FROM runs QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY record_id DESC) = 1;
CREATE VIEW judged AS
SELECT run_id, record_id, path FROM newest
UNION ALL
SELECT e.run_id, e.record_id, e.path FROM evaluations e JOIN newest USING (run_id)
WHERE e.record_id > newest.record_id;
"""

# What DuckDB makes of a disk that is full, read-only or gone.
_TROUBLE = (duckdb.IOException, duckdb.FatalException, duckdb.OutOfMemoryException, duckdb.TransactionException)

_OF_SQL: dict[str, Any] = {"INTEGER": np.int32, "BIGINT": np.int64, "DOUBLE": np.float64, "BOOLEAN": np.bool_}


@dataclass(frozen=True)
class Index:
    """What `rebuild` put into the database, and what it had to leave out."""

    database: Path
    records: int
    problems: Sequence[Problem]


def rebuild(results: Path) -> Index:
    """Build the database anew beside the old one, and swap it in whole: a reader sees the old or the new.

    Malformed files are named and left out, never touched.  Raises UserError where one of the folders of records, or a
    file of the database, is a link.
    """
    database = results / DATABASE
    part = database.with_name(f".{DATABASE}.{secrets.token_hex(4)}.part")
    try:
        results.mkdir(parents=True, exist_ok=True)
        _require_own_files(results)
        with _opened(results / f".{DATABASE}.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # or a slow rebuild would put back an older view
            began = time.time_ns()
            _sweep(results, f".{DATABASE}.*.part*")
            with contextlib.closing(duckdb.connect(str(part), config=_SETTINGS)) as connection:
                connection.begin()  # as one change: else DuckDB writes again what it wrote of a table so far
                records, problems = _fill(connection, results)
                connection.commit()
                connection.execute("CHECKPOINT")  # when it closes, DuckDB says nothing of a disk that is full
            os.utime(part, ns=(began, began))  # what changes from now on is newer
            os.replace(part, database)
    except OSError as error:
        raise disk_error(database, error) from error
    except _TROUBLE as error:
        raise UserError(
            f"{database} could not be written: {str(error).splitlines()[0]}",
            "the records are safe; free space or mend permissions, then run `python -m harness index`",
        ) from error
    finally:
        _sweep(results, f"{part.name}*")
    return Index(database, records, problems)


def is_current(results: Path) -> bool:
    """Whether nothing that the database is made from, our own code included, changed since its last rebuild began."""
    try:
        began = (results / DATABASE).stat().st_mtime_ns
        made_from = [entry for entry in results.iterdir() if entry.name not in (DATABASE, f".{DATABASE}.lock")]
        return max(map(_newest, [*made_from, Path(__file__).parent])) < began
    except OSError:
        return False


def _newest(place: Path) -> int:
    """When a file, or anything in a folder, was last written, added or removed, in ns."""
    return max(path.lstat().st_mtime_ns for path in (place, *place.rglob("*")))


def snapshot(database: Path) -> duckdb.DuckDBPyConnection:
    """The database as it is now, to be read: a copy that nobody else knows, as the next rebuild replaces the file.

    The copy has no name any more once it is open.  Raises FileNotFoundError where there is no file, UserError
    where there is no room for the copy, and duckdb.Error where the file is no database.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / DATABASE
        try:
            shutil.copyfile(database, copy)
        except OSError as error:
            raise disk_error(database, error) from error
        return duckdb.connect(str(copy), read_only=True)


def _require_own_files(results: Path) -> None:
    """Raise UserError where what is read or written here lies elsewhere."""
    folders = (results / name for name in (MEASURED, EVALUATIONS, BENCH, PUBLISHED, WITHDRAWN))
    for path in (*folders, *results.glob(f"*{DATABASE}*")):
        if path.is_symlink():
            raise UserError(f"{path} is a link: what lies elsewhere is no part of the results", f"remove it: rm {path}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file to lock, made where there is none, its content left as it is."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sweep(results: Path, pattern: str) -> None:
    """Remove what a rebuild leaves beside its database: this one, or one that was killed."""
    for leftover in results.glob(pattern):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _fill(connection: duckdb.DuckDBPyConnection, results: Path) -> tuple[int, list[Problem]]:
    """Every table; returns how many runs there are, and every file that is no record.

    Each record is let go as soon as its rows are taken: memory does not grow with their number.
    """
    measured = rows.MeasurementRows()
    measurements = _Table(connection, "measurements", rows.MEASUREMENTS)
    records, problems, keys = _fill_runs(connection, results, measurements)
    problems += _fill_evaluations(connection, results, measured, measurements)
    withdrawn, unfit = read_withdrawals(results)
    _whole(connection, "withdrawn", rows.WITHDRAWN, (rows.withdrawn_row(each.withdrawal) for each in withdrawn))
    measurements.flush()
    _whole(connection, "keys", rows.KEYS, (measured.keys | keys).values())
    refused = refusals(results)
    stored, unread = read_benches(results)
    benches = (row for each in stored if each.path not in refused for row in rows.bench_rows(results, each))
    _whole(connection, "benches", rows.BENCHES, benches)
    published = _accepted(read_published(results, refused.keys()), results / PUBLISHED, refused)
    _whole(connection, "published", PUBLISHED_COLUMNS, published_rows(published))
    _whole(connection, "claims", CLAIM_COLUMNS, claim_rows(published))
    problems += [*unread, *(Problem(path, reason) for path, reason in published.problems)]
    problems += [Problem(bad.path, bad.reason, "withdrawal") for bad in unfit]
    problems += [Problem(each.path, refused[each.path]) for each in stored if each.path in refused]
    _whole(connection, "problems", rows.PROBLEMS, (rows.problem_row(results, problem) for problem in problems))
    connection.execute(_VIEWS)
    return records, problems


def _fill_runs(
    connection: duckdb.DuckDBPyConnection, results: Path, measurements: "_Table"
) -> tuple[int, list[Problem], dict[str, Row]]:
    """How many runs there are, the files that are no record, and the comparability keys."""
    runs = _Table(connection, "runs", rows.RUNS)
    outliers = _Numbers(connection, "outliers", rows.OUTLIERS)
    curves = _Numbers(connection, "loss_curves", rows.CURVES)
    records, problems = 0, []
    keys: dict[str, Row] = {}
    for taken in take_all(results):
        if records // COMMITTED_AT_ONCE < (records + len(taken.runs)) // COMMITTED_AT_ONCE:
            connection.commit()
            connection.begin()
        records += len(taken.runs)
        problems += taken.problems
        keys |= {digest: row for digest, row in taken.keys.items() if digest not in keys}
        runs.add(taken.runs)
        measurements.add(taken.measurements)
        outliers.add(taken.outliers)
        curves.add(taken.curves)
    runs.flush()
    outliers.flush()
    curves.flush()
    return records, problems, keys


def _fill_evaluations(
    connection: duckdb.DuckDBPyConnection, results: Path, measured: rows.MeasurementRows, measurements: "_Table"
) -> list[Problem]:
    evaluations = _Table(connection, "evaluations", rows.EVALUATIONS)
    problems = []
    refused, withdrawn = refusals(results), withdrawn_paths(results)
    for found in read_each_evaluation(results):
        if found.path in withdrawn:
            continue
        if isinstance(found, Problem):
            problems.append(found)
            continue
        if found.path in refused:
            problems.append(Problem(found.path, refused[found.path]))
            continue
        evaluations.add([rows.cells(rows.EVALUATIONS, rows.evaluation_row(results, found))])
        measurements.add(rows.cells(rows.MEASUREMENTS, row) for row in measured.of(found))
    evaluations.flush()
    return problems


def _accepted(published: Published, folder: Path, refused: Mapping[Path, str]) -> Published:
    """What was published, but for the files that `index` refused."""
    left_out = {path for path in refused if path.parent == folder}
    if not left_out:
        return published
    known = {path for path, _ in published.problems}
    return replace(
        published,
        sources=tuple(each for each in published.sources if folder / f"{each.name}.json" not in left_out),
        claims=() if folder / f"{CLAIMS}.json" in left_out else published.claims,
        problems=(*published.problems, *((path, refused[path]) for path in sorted(left_out - known))),
    )


def _whole(connection: duckdb.DuckDBPyConnection, name: str, columns: Columns, found: Iterable[Row]) -> None:
    """A table that is filled at once."""
    table = _Table(connection, name, columns)
    table.add(rows.cells(columns, row) for row in found)
    table.flush()


class _Table:
    """A table that is filled some thousand rows at a time, by columns: that is how DuckDB takes them in a moment."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str, columns: Columns) -> None:
        self._columns = columns
        self._insert = _created(connection, name, columns)
        self._held: list[tuple[Any, ...]] = []

    def add(self, found: Iterable[tuple[Any, ...]]) -> None:
        """Append rows, each a value for every column."""
        self._held += found
        if len(self._held) >= ROWS_HELD:
            self.flush()

    def flush(self) -> None:
        """Give what is held to the database."""
        # Ten times as fast as zip(*...), which takes every row as an argument.
        values = {
            column: _column([row[index] for row in self._held], kind)
            for index, (column, kind) in enumerate(self._columns.items())
        }
        self._insert(values)
        self._held.clear()


class _Numbers:
    """A table of a record's numbers, of which there are hundreds: a matrix of each record, under its id."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str, columns: Columns) -> None:
        self._id, *self._names = columns
        self._insert = _created(connection, name, columns)
        self._ids: list[str] = []
        self._held: list[npt.NDArray[np.float64]] = []

    def add(self, found: Iterable[tuple[str, npt.NDArray[np.float64]]]) -> None:
        """Append matrices: a row for each number of the record's columns but the id, NaN where there is none."""
        for record_id, numbers in found:
            if len(numbers):
                self._ids += [record_id] * len(numbers)
                self._held.append(numbers)
        if len(self._ids) * len(self._names) >= NUMBERS_HELD:
            self.flush()

    def flush(self) -> None:
        """Give what is held to the database."""
        if not self._held:
            return
        numbers = np.concatenate(self._held).T.copy()
        values = zip(self._names, np.ma.array(numbers, mask=np.isnan(numbers)), strict=True)
        self._insert({self._id: np.array(self._ids, dtype=object), **dict(values)})
        self._ids, self._held = [], []


def _created(
    connection: duckdb.DuckDBPyConnection, name: str, columns: Columns
) -> Callable[[dict[str, npt.NDArray[Any]]], None]:
    """Create a table; returns what appends columns of values to it."""
    declared = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
    connection.execute(f"CREATE TABLE {name} ({declared})")

    def insert(values: dict[str, npt.NDArray[Any]]) -> None:
        connection.register("batch", values)
        connection.execute(f"INSERT INTO {name} SELECT * FROM batch")
        connection.unregister("batch")

    return insert


def _column(values: list[Any], kind: str) -> npt.NDArray[Any]:
    """The values of a column as DuckDB reads them fast; None is NULL."""
    if kind not in _OF_SQL:
        return np.array(values, dtype=object)
    absent = [value is None for value in values]
    return np.ma.array([value or 0 for value in values], dtype=_OF_SQL[kind], mask=absent)
