"""Take a record back: it stays where it lies, and a file beside the results says why it no longer counts (no torch)."""

import functools
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from harness.contributing import strict_json
from harness.errors import UserError
from harness.files import sha256_of, write_new
from harness.frozen import Frozen
from harness.plain_files import NotPlainError, read_plain, reason_of
from harness.record_paths import OF_EVALUATION, OF_RUN

WITHDRAWN = "withdrawn"
FEWEST_CHARACTERS, MOST_CHARACTERS = 10, 2000


def _require_words(reason: str) -> str:
    """Dots and blanks say nothing."""
    if not _has_words(reason):
        raise ValueError(f"a reason has at least {FEWEST_CHARACTERS} letters")
    return reason


def _has_words(reason: str) -> bool:
    return sum(map(str.isalnum, reason)) >= FEWEST_CHARACTERS


class Withdrawal(Frozen):
    """Why one record no longer counts.  `path` is below the results, `sha256` that of the record's bytes."""

    schema_version: Literal[1] = 1
    kind: Literal["withdrawal"] = "withdrawal"
    path: str = Field(pattern=rf"^({OF_RUN}|{OF_EVALUATION})$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    reason: Annotated[
        str, Field(min_length=FEWEST_CHARACTERS, max_length=MOST_CHARACTERS), AfterValidator(_require_words)
    ]
    created: datetime

    @property
    def record_id(self) -> str:
        """The record's name."""
        return PurePosixPath(self.path).stem


@dataclass(frozen=True)
class StoredWithdrawal:
    """A withdrawal and the file that it was read from."""

    withdrawal: Withdrawal
    path: Path


@dataclass(frozen=True)
class BadWithdrawal:
    """A file that withdraws nothing, and why.  The record that it means counts on."""

    path: Path
    reason: str


def withdraw(results: Path, record: Path, reason: str) -> Path:
    """Withdraw the record in this file, below `results`; returns the new file's path.

    Raises UserError where it is no record's file, has been withdrawn, or the reason is too short to help anybody.
    """
    path = place_of(results, record)
    if len(reason.strip()) > MOST_CHARACTERS or not _has_words(reason):
        raise UserError(
            f"a reason has {FEWEST_CHARACTERS} to {MOST_CHARACTERS} characters, {FEWEST_CHARACTERS} of them letters",
            "say what is wrong with the record, so that a reader need not ask",
        )
    try:
        withdrawal = Withdrawal(
            path=path, sha256=sha256_of(results / path), reason=reason.strip(), created=datetime.now(UTC)
        )
    except ValidationError as error:
        raise UserError(f"{record} is called as no record is", "name a file below measured/ or evaluations/") from error
    place = results / WITHDRAWN / f"{withdrawal.record_id}.json"
    if place.exists():
        raise UserError(f"{record} has been withdrawn already: {place}", "nothing is left to do")
    write_new(place, (withdrawal.model_dump_json(indent=1) + "\n").encode())
    return place


def place_of(results: Path, record: Path) -> str:
    """A record's path below the results.  Raises UserError for a file that lies elsewhere, or that there is not."""
    if not record.is_file():
        raise UserError(f"there is no file {record}", "name the record's file: the `path` that `index` lists")
    try:
        return record.resolve().relative_to(results.resolve()).as_posix()
    except ValueError as error:
        raise UserError(f"{record} does not lie below {results}", "name its folder by --results") from error


def read_withdrawals(results: Path) -> tuple[list[StoredWithdrawal], list[BadWithdrawal]]:
    """Every withdrawal that holds, in the order of their names, and every file that is none."""
    each = [_read(results, path) for path in sorted((results / WITHDRAWN).glob("*.json"))]
    good = [e for e in each if isinstance(e, StoredWithdrawal)]
    return good, [e for e in each if isinstance(e, BadWithdrawal)]


def withdrawn_paths(results: Path) -> frozenset[Path]:
    """The files of records that no longer count."""
    return frozenset(results / stored.withdrawal.path for stored in read_withdrawals(results)[0])


def is_withdrawn(results: Path, record: Path) -> bool:
    """Whether this one record no longer counts."""
    path = results / WITHDRAWN / record.name
    found = _read(results, path) if path.exists() else None
    return isinstance(found, StoredWithdrawal) and results / found.withdrawal.path == record


def _read(results: Path, path: Path) -> StoredWithdrawal | BadWithdrawal:
    try:
        content = read_plain(path, strict_json.MOST_BYTES)
        withdrawal = Withdrawal.model_validate_json(content)
    except NotPlainError as error:
        return BadWithdrawal(path, error.reason)
    except ValidationError as error:
        return BadWithdrawal(path, reason_of(error))
    return next((BadWithdrawal(path, reason) for reason in _reasons(results, path, content, withdrawal)), None) or (
        StoredWithdrawal(withdrawal, path)
    )


def _reasons(results: Path, path: Path, content: bytes, withdrawal: Withdrawal) -> Iterator[str]:
    """Why a withdrawal does not hold."""
    if reason := strict_json.problem_of(content):
        yield reason
    if path.stem != withdrawal.record_id:
        yield f"the file's name is not that of the record which it withdraws, {withdrawal.record_id}"
    if withdrawal.created.tzinfo is None:
        yield "created has no time zone"
    record = results / withdrawal.path
    if os.path.lexists(record) and _digest(record, record.lstat().st_mtime_ns) != withdrawal.sha256:
        yield f"it withdraws other bytes than {withdrawal.path} has"


@functools.lru_cache(maxsize=256)
def _digest(path: Path, _changed: int) -> str | None:
    """That of a record's bytes; None for what is none."""
    try:
        return hashlib.sha256(read_plain(path, strict_json.MOST_BYTES)).hexdigest()
    except NotPlainError:
        return None
