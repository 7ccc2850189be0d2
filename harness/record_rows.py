"""The database rows of all run records: thousands of files are read by several processes (no torch)."""

import contextlib
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from harness import database_rows as rows
from harness.contributing.refusals import refusals
from harness.database_rows import MeasurementRows, Row, RunRows
from harness.processes import cores
from harness.store import Problem, files, read_in_place
from harness.withdrawals import withdrawn_paths

# Files that are read at once; from so many on other processes pay for their start.
AT_ONCE, MANY = 100, 1_500
MOST_PROCESSES = 4

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Taken:
    """What some files give: cells of `runs` and `measurements`, by their columns, and the keys that those name.

    `outliers` and `curves` are a record's id and a matrix of its numbers, NaN where there is none.
    """

    runs: list[tuple[Any, ...]] = field(default_factory=list)
    measurements: list[tuple[Any, ...]] = field(default_factory=list)
    keys: dict[str, Row] = field(default_factory=dict)
    outliers: list[tuple[str, Matrix]] = field(default_factory=list)
    curves: list[tuple[str, Matrix]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def take_all(results: Path) -> Iterator[Taken]:
    """The rows of all files below `results/measured`, in the order of their names.

    Neither withdrawn records are among them, nor those that `index` refused as they are.
    """
    refused, withdrawn = refusals(results), withdrawn_paths(results)
    listed = files(results)
    paths = [path for path in listed if path not in refused and path not in withdrawn]
    yield Taken(problems=[Problem(path, refused[path]) for path in listed if path in refused and path not in withdrawn])
    parts = [paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE)]
    processes = min(cores(), MOST_PROCESSES)
    if len(paths) < MANY or processes == 1:
        reader = _Reader(results)
        yield from map(reader.take, parts)
        return
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(_reading(results, parts[first::processes])) for first in range(processes)]
        for index in range(len(parts)):
            # Written a moment ago by our own process.
            yield pickle.load(readers[index % processes])  # noqa: S301


class _Reader:
    """Reads files; what many of them share is worked out once."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._runs, self._measurements = RunRows(results), MeasurementRows()

    def take(self, paths: Sequence[Path]) -> Taken:
        """The rows of some files."""
        taken = Taken()
        for path in paths:
            found = read_in_place(self._results, path)
            if isinstance(found, Problem):
                taken.problems.append(found)
                continue
            taken.runs.append(rows.cells(rows.RUNS, self._runs.of(found)))
            taken.measurements.extend(rows.cells(rows.MEASUREMENTS, row) for row in self._measurements.of(found))
            taken.outliers.append((found.record_id, _matrix(rows.outlier_numbers(found))))
            taken.curves.append((found.record_id, _matrix(found.record.loss_curve)))
        taken.keys.update(self._measurements.keys)
        return taken


def _matrix(numbers: Sequence[Sequence[float | None]]) -> Matrix:
    return np.array(numbers, dtype=np.float64)


@contextlib.contextmanager
def _reading(results: Path, parts: Sequence[Sequence[Path]]) -> Iterator[IO[bytes]]:
    """The answers of another process that reads these files."""
    process = subprocess.Popen(
        [sys.executable, "-c", _READ, str(results)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps([[str(path) for path in part] for part in parts]).encode())
        process.stdin.close()
        yield process.stdout
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


# It waits wherever it writes more than was asked for: what was read, and is not yet in the database, stays little.
_READ = "import sys, harness.record_rows; harness.record_rows.answer(sys.argv[1])"


def answer(results: str) -> None:
    """What the other process does: read the files that standard input names, and tell standard output their rows."""
    reader = _Reader(Path(results))
    for part in json.load(sys.stdin.buffer):
        pickle.dump(reader.take([Path(path) for path in part]), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
        sys.stdout.buffer.flush()
