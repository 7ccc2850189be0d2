"""Append a record; find and read those that there are (no torch)."""

import functools
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from harness.comparability import conditions_of
from harness.errors import UserError
from harness.files import write_bytes, write_new
from harness.identity import Identity
from harness.record_versions import read_record
from harness.records import RunRecord
from harness.spec import RunConfig

MEASURED = "measured"


@dataclass(frozen=True)
class Problem:
    """A file among the records that is none, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Stored:
    """A record and the file that it was read from."""

    record: RunRecord
    path: Path

    @functools.cached_property
    def record_id(self) -> str:
        return self.path.stem

    @functools.cached_property
    def identity(self) -> Identity:
        return self.record.config.identity


def append(results: Path, record: RunRecord, picture: bytes | None) -> Path:
    """Write a record, and the sample grid that it names beside it, as new files; returns the record's path.

    The record is validated as a reader would; an existing file is never overwritten.  Raises UserError where the
    folder cannot be written.
    """
    text = record.model_dump_json(indent=1) + "\n"
    assert RunRecord.model_validate_json(text) == record, "a record that reads back differently"
    path = path_of(results, record)
    if path.exists():
        raise UserError(f"{path} exists already, and records are never overwritten", "run the command again")
    if record.samples is not None:
        assert picture is not None, "the record names a picture"
        write_bytes(path.with_name(record.samples.file), picture)
    write_new(path, text.encode())
    return path


def path_of(results: Path, record: RunRecord) -> Path:
    """Where a record belongs."""
    return folder_of(results, record.config) / f"{record_name(record.created, record.config)}.json"


def record_name(created: datetime, config: RunConfig) -> str:
    """The name of a record's files: when it was created (UTC), and its run."""
    return f"{created:%Y%m%dT%H%M%S%fZ}-{config.run_id}"


def find(results: Path, config: RunConfig) -> Stored | None:
    """The newest record of a run, or None.  Raises UserError where a file of that run is no valid record."""
    newest: Stored | None = None
    for path in sorted(folder_of(results, config).glob(f"*-{config.run_id}.json")):
        found = read(path)
        if isinstance(found, Problem):
            raise UserError(
                f"{path} is not a valid record: {found.reason}",
                "restore it, or move it away to make the run anew",
            )
        newest = found
    return newest


def read(path: Path) -> Stored | Problem:
    """One file of the results, validated; anything that is wrong with it becomes a Problem."""
    try:
        record = read_record(path.read_bytes())
    except (ValidationError, OSError) as error:
        return Problem(path, reason_of(error))
    stored = Stored(record, path)
    run_id = stored.identity.run_id(record.config.seed)
    if record.run_id != run_id:
        return Problem(path, f"run_id is {record.run_id}, and its configuration gives {run_id}")
    if record.conditions != conditions_of(record.config):
        return Problem(path, "its conditions are not those that its configuration gives")
    if not stored.record_id.endswith(record.run_id):
        return Problem(path, f"the file's name does not end in its run_id {record.run_id}")
    return stored


def reason_of(error: ValidationError | OSError) -> str:
    """Why a file is no record, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def files(results: Path) -> list[Path]:
    """Every file below `results/measured` that should be a record, in the order of their names."""
    return sorted((results / MEASURED).rglob("*.json"))


def read_in_place(results: Path, path: Path) -> Stored | Problem:
    """`read`; a record that lies where it does not belong is a Problem, as a copy would count a run twice."""
    found = read(path)
    if isinstance(found, Problem) or found.path.parent == folder_of(results, found.record.config):
        return found
    place = folder_of(results, found.record.config).relative_to(results)
    return Problem(found.path, f"this record belongs into {place}/, and counts only there")


def read_all(results: Path) -> tuple[list[Stored], list[Problem]]:
    """Every record below `results/measured`, and every file that is none."""
    each = [read_in_place(results, path) for path in files(results)]
    return [e for e in each if isinstance(e, Stored)], [e for e in each if isinstance(e, Problem)]


def folder_of(results: Path, config: RunConfig) -> Path:
    """Where the records of a run lie."""
    return _folder_of(results, config.task.name, config.backbone)


@functools.lru_cache(maxsize=256)
def _folder_of(results: Path, task: str, backbone: str) -> Path:
    return results / MEASURED / task / backbone
