"""What is lost, there twice, half there or unreadable after whatever has happened."""

import hashlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple

import duckdb

from harness import database
from harness.run_state import read_state
from harness.store import Stored, read_all

Kind = Literal["lost", "twice", "half", "unreadable", "other bytes", "leftover", "state", "behaviour"]

COMPARED = ("weights.safetensors", "samples.npz", "samples.png", "moments.safetensors", "norm-maps.safetensors")


class Fault(NamedTuple):
    """Something that no kill may do."""

    kind: Kind
    what: str


def faults_of_results(results: Path, expected: Collection[str]) -> tuple[int, list[Fault]]:
    """How many records there are, and what is wrong with them and with the database that was made from them.

    Of each expected run there must be one, and of others none.
    """
    stored, problems = read_all(results)
    times = Counter(each.record.run_id for each in stored)
    faults = [Fault("half", f"{problem.path}: {problem.reason}") for problem in problems]
    faults += [fault for each in stored for fault in _faults_of_picture(each)]
    faults += [Fault("lost", f"the record of {run}") for run in expected if run not in times]
    faults += [Fault("twice", f"{count} records of {run}") for run, count in times.items() if count > 1]
    unknown = sorted(set(times) - set(expected))
    faults += [Fault("twice", f"a record of {run}, which nobody made") for run in unknown]
    return len(stored), faults + _faults_of_database(results, times)


def recorded_in_database(results: Path) -> Counter[str]:
    """How many rows each run has in the database.  Raises duckdb.Error, or FileNotFoundError where there is none."""
    with database.snapshot(results / database.DATABASE) as connection:
        return Counter(dict(connection.execute("SELECT run_id, count(*) FROM runs GROUP BY run_id").fetchall()))


def faults_of_run(folder: Path, undisturbed: Path) -> list[Fault]:
    """What is wrong with a finished run's folder, beside that of the same run which nobody disturbed."""
    faults = [
        Fault("other bytes", f"{folder / name} is not what the undisturbed run made")
        for name in COMPARED
        if _content(folder / name) != _content(undisturbed / name)
    ]
    faults += [Fault("leftover", str(part)) for part in leftovers(folder)]
    state = read_state(folder)
    if state is None or state.status != "finished":
        faults.append(Fault("state", f"{folder}/state.json says {state.status if state else 'nothing'}"))
    return faults


def leftovers(folder: Path) -> list[Path]:
    """What writers that were killed left behind."""
    return sorted(folder.rglob(".*.part*"))


def _faults_of_picture(stored: Stored) -> list[Fault]:
    """A record names its picture's digest: with another picture it is half a record."""
    samples = stored.record.samples
    if samples is None:
        return []
    picture = _content(stored.path.with_name(samples.file))
    if picture is not None and hashlib.sha256(picture).hexdigest() == samples.sha256:
        return []
    return [Fault("half", f"{stored.path}: its picture is not the one that it names")]


def _faults_of_database(results: Path, times: Counter[str]) -> list[Fault]:
    try:
        rows = recorded_in_database(results)
    except (duckdb.Error, FileNotFoundError) as error:
        return [Fault("unreadable", f"{results / database.DATABASE}: {str(error).splitlines()[0]}")]
    faults = [Fault("lost", f"{run} in the database") for run in times if run not in rows]
    return faults + [Fault("twice", f"{run} in the database") for run in rows if rows[run] > times[run]]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
