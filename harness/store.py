"""Append a record; find and read those that there are (no torch)."""

import contextlib
import functools
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from harness.attachments import attachment_of, path_beside
from harness.comparability import conditions_of
from harness.contributing import strict_json
from harness.contributing.verdict import shown
from harness.errors import UserError
from harness.files import write_bytes, write_new
from harness.identity import Identity
from harness.plain_files import NotPlainError, read_plain, reason_of
from harness.record_versions import read_record
from harness.records import RunRecord
from harness.spec import RunConfig
from harness.withdrawals import is_withdrawn, withdrawn_paths

MEASURED = "measured"
NO_OFFSET = timedelta(0)


@dataclass(frozen=True)
class Problem:
    """A file among the records that is none, and why: by which rule of `validate`.

    The reason is in ASCII without control characters; so is what str() gives, with the path.
    """

    path: Path
    reason: str
    rule: str = "schema"

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", shown(self.reason))

    def __str__(self) -> str:
        return f"{shown(str(self.path))}: {self.reason}"


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


def append(
    results: Path,
    record: RunRecord,
    picture: bytes | None,
    norm_maps: bytes | None = None,
    verdicts: bytes | None = None,
) -> Path:
    """Write a record, after the files beside it that it names, as new files; returns the record's path.

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
    if norm_maps is not None:
        assert attachment_of(norm_maps) == record.norm_maps, "other norm maps than the record names"
        write_bytes(path_beside(path, "norms"), norm_maps)
    if verdicts is not None:
        assert attachment_of(verdicts) == record.verdicts, "other verdicts than the record names"
        write_bytes(path_beside(path, "verdicts"), verdicts)
    write_new(path, text.encode())
    return path


def path_of(results: Path, record: RunRecord) -> Path:
    """Where a record belongs."""
    return folder_of(results, record.config) / f"{record_name(record.created, record.config)}.json"


def record_name(created: datetime, config: RunConfig) -> str:
    """The name of a record's files: when it was created (UTC), and its run."""
    return _name(created, config.run_id)


def _name(created: datetime, run_id: str) -> str:
    return f"{created:%Y%m%dT%H%M%S%fZ}-{run_id}"


def find(results: Path, config: RunConfig) -> Stored | None:
    """The newest record of a run that was not withdrawn, or None.

    Raises UserError where a file of that run is no valid record.
    """
    newest: Stored | None = None
    for path in sorted(folder_of(results, config).glob(f"*-{config.run_id}.json")):
        if is_withdrawn(results, path):
            continue
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
    content = content_of(path)
    if isinstance(content, Problem):
        return content
    record = _record(path, content)
    if isinstance(record, Problem):
        return record
    stored = Stored(record, path)
    run_id = stored.identity.run_id(record.config.seed)
    if record.run_id != run_id:
        return Problem(path, f"run_id is {record.run_id}, and its configuration gives {run_id}", "run-id")
    if record.conditions != conditions_of(record.config):
        return Problem(path, "its conditions are not those that its configuration gives", "conditions")
    if not stored.record_id.endswith(record.run_id):
        return Problem(path, f"the file's name does not end in its run_id {record.run_id}", "name")
    if stored.record_id != _name(record.created, run_id) or record.created.utcoffset() != NO_OFFSET:
        begins = f"when it was created, {_name(record.created, run_id)[:22]} (UTC)"
        return Problem(path, f"the file's name does not begin with {begins}", "name")
    return stored


def content_of(path: Path, most_bytes: int = strict_json.MOST_BYTES) -> bytes | Problem:
    """The bytes of a file that is neither a link nor larger than it may be."""
    try:
        return read_plain(path, most_bytes)
    except NotPlainError as error:
        return Problem(path, error.reason, error.rule)


def _record(path: Path, content: bytes) -> RunRecord | Problem:
    """The record in these bytes.

    What is written as we write it hides nothing; only in anything else is it worth to look for what parsers overlook.
    """
    with contextlib.suppress(ValidationError):
        record = RunRecord.model_validate_json(content)
        if content == f"{record.model_dump_json(indent=1)}\n".encode():
            return record
    if problem := strict_json.problem_of(content):
        return Problem(path, problem, "json")
    try:
        return read_record(content)
    except ValidationError as error:
        return Problem(path, reason_of(error))


def files(results: Path) -> list[Path]:
    """Every file below `results/measured` that should be a record, in the order of their names."""
    return sorted((results / MEASURED).rglob("*.json"))


def read_in_place(results: Path, path: Path) -> Stored | Problem:
    """`read`; a record that lies where it does not belong is a Problem, as a copy would count a run twice."""
    found = read(path)
    if isinstance(found, Problem) or found.path.parent == folder_of(results, found.record.config):
        return found
    place = folder_of(results, found.record.config).relative_to(results)
    return Problem(found.path, f"this record belongs into {place}/, and counts only there", "place")


def read_all(results: Path) -> tuple[list[Stored], list[Problem]]:
    """Every record below `results/measured` that was not withdrawn, and every file that is none."""
    withdrawn = withdrawn_paths(results)
    each = [read_in_place(results, path) for path in files(results) if path not in withdrawn]
    return [e for e in each if isinstance(e, Stored)], [e for e in each if isinstance(e, Problem)]


def folder_of(results: Path, config: RunConfig) -> Path:
    """Where the records of a run lie."""
    return _folder_of(results, config.task.name, config.backbone)


@functools.lru_cache(maxsize=256)
def _folder_of(results: Path, task: str, backbone: str) -> Path:
    return results / MEASURED / task / backbone
