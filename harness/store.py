"""Append a record; rebuild from all records the database that everything queries (no torch)."""

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
from pydantic import ValidationError

from harness.errors import UserError, disk_error
from harness.files import write_bytes, write_text
from harness.records import RunRecord
from harness.spec import RunConfig

DATABASE = "leaderboard.duckdb"
MEASURED = "measured"

# One table, one place: column -> (SQL type, value of a record's row).
_RUNS = {
    "record_id": "VARCHAR",
    "run_id": "VARCHAR",
    "arm_id": "VARCHAR",
    "none_run_id": "VARCHAR",
    "none_arm_id": "VARCHAR",
    "created": "TIMESTAMPTZ",
    "path": "VARCHAR",
    "status": "VARCHAR",
    "diverged_at_step": "INTEGER",
    "task": "VARCHAR",
    "data_fingerprint": "VARCHAR",
    "protocol": "VARCHAR",
    "backbone": "VARCHAR",
    "exact_name": "VARCHAR",
    "registers": "VARCHAR",
    "stages": "VARCHAR",
    "count": "INTEGER",
    "start_block": "INTEGER",
    "seed": "BIGINT",
    "steps": "INTEGER",
    "commit": "VARCHAR",
    "dirty": "BOOLEAN",
    "device": "VARCHAR",
    "samples": "VARCHAR",
    "notes": "VARCHAR",
    "config": "VARCHAR",
    "provenance": "VARCHAR",
}
_MEASUREMENTS = {
    "record_id": "VARCHAR",
    "name": "VARCHAR",
    "value": "DOUBLE",
    "unit": "VARCHAR",
    "better": "VARCHAR",
    "num_images": "INTEGER",
    "note": "VARCHAR",
}
_OUTLIERS = {
    "record_id": "VARCHAR",
    "block": "INTEGER",
    "time": "DOUBLE",
    "median_norm": "DOUBLE",
    "max_over_median": "DOUBLE",
    "share_above_3x": "DOUBLE",
    "share_above_5x": "DOUBLE",
    "channel_share": "DOUBLE",
    "register_max_over_median": "DOUBLE",
}
_CURVES = {"record_id": "VARCHAR", "step": "INTEGER", "loss": "DOUBLE"}
_PROBLEMS = {"path": "VARCHAR", "reason": "VARCHAR"}


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

    @property
    def record_id(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Index:
    """What `rebuild` put into the database, and what it had to leave out."""

    database: Path
    records: int
    problems: Sequence[Problem]


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
    write_text(path, text)
    return path


def path_of(results: Path, record: RunRecord) -> Path:
    """Where a record belongs."""
    return _folder(results, record.config) / f"{record_name(record.created, record.config)}.json"


def record_name(created: datetime, config: RunConfig) -> str:
    """The name of a record's files: when it was created (UTC), and its run."""
    return f"{created:%Y%m%dT%H%M%S%fZ}-{config.run_id}"


def find(results: Path, config: RunConfig) -> Stored | None:
    """The newest record of a run, or None.  Raises UserError where a file of that run is no valid record."""
    newest: Stored | None = None
    for path in sorted(_folder(results, config).glob(f"*-{config.run_id}.json")):
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
        record = RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return Problem(path, f"{place}: {first['msg']}" if place else first["msg"])
    except OSError as error:
        return Problem(path, error.strerror or str(error))
    if record.run_id != record.config.run_id:
        return Problem(path, f"run_id is {record.run_id}, and its configuration gives {record.config.run_id}")
    if not path.stem.endswith(record.run_id):
        return Problem(path, f"the file's name does not end in its run_id {record.run_id}")
    return Stored(record, path)


def read_all(results: Path) -> tuple[list[Stored], list[Problem]]:
    """Every record below `results/measured`, in the order of their names, and every file that is none."""
    each = [_in_its_place(results, read(path)) for path in sorted((results / MEASURED).rglob("*.json"))]
    return [e for e in each if isinstance(e, Stored)], [e for e in each if isinstance(e, Problem)]


def _in_its_place(results: Path, found: Stored | Problem) -> Stored | Problem:
    """A copy elsewhere would count a run twice."""
    if isinstance(found, Problem) or found.path.parent == _folder(results, found.record.config):
        return found
    place = _folder(results, found.record.config).relative_to(results)
    return Problem(found.path, f"this record belongs into {place}/, and counts only there")


def rebuild(results: Path) -> Index:
    """Build the database anew beside the old one, and swap it in whole: a reader sees the old or the new.

    Malformed files are named and left out, never touched.
    """
    database = results / DATABASE
    part = database.with_name(f".{DATABASE}.{secrets.token_hex(4)}.part")
    try:
        results.mkdir(parents=True, exist_ok=True)
        with (results / f".{DATABASE}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # or a slow rebuild would put back an older view
            stored, problems = read_all(results)
            with contextlib.closing(duckdb.connect(str(part))) as connection:
                _fill(connection, results, stored, problems)
            os.replace(part, database)
    except OSError as error:
        raise disk_error(database, error) from error
    except (duckdb.IOException, duckdb.FatalException, duckdb.OutOfMemoryException) as error:
        raise UserError(
            f"{database} could not be written: {str(error).splitlines()[0]}",
            "the records are safe; free space or mend permissions, then run `python -m harness index`",
        ) from error
    finally:
        for leftover in results.glob(f"{part.name}*"):
            leftover.unlink(missing_ok=True)
    return Index(database, len(stored), problems)


def snapshot(database: Path) -> duckdb.DuckDBPyConnection:
    """A copy of the database in memory, so that no reader holds the file that the next rebuild replaces."""
    connection = duckdb.connect(":memory:")
    source = str(database).replace("'", "''")
    connection.execute(f"ATTACH '{source}' AS stored (READ_ONLY)")
    connection.execute("COPY FROM DATABASE stored TO memory")
    connection.execute("DETACH stored")
    return connection


def _folder(results: Path, config: RunConfig) -> Path:
    return results / MEASURED / config.task.name / config.backbone


def _fill(
    connection: duckdb.DuckDBPyConnection, results: Path, stored: Sequence[Stored], problems: Sequence[Problem]
) -> None:
    _table(connection, "runs", _RUNS, [_run_row(results, each) for each in stored])
    _table(
        connection,
        "measurements",
        _MEASUREMENTS,
        [{"record_id": e.record_id, **m.model_dump()} for e in stored for m in e.record.measurements],
    )
    _table(
        connection,
        "outliers",
        _OUTLIERS,
        [{"record_id": e.record_id, **o.model_dump()} for e in stored for o in e.record.outliers],
    )
    _table(
        connection,
        "loss_curves",
        _CURVES,
        [{"record_id": e.record_id, "step": step, "loss": loss} for e in stored for step, loss in e.record.loss_curve],
    )
    rows = [{"path": str(problem.path.relative_to(results)), "reason": problem.reason} for problem in problems]
    _table(connection, "problems", _PROBLEMS, rows)


def _table(
    connection: duckdb.DuckDBPyConnection, name: str, columns: dict[str, str], rows: Iterable[dict[str, Any]]
) -> None:
    """Create and fill a table column by column, which is how DuckDB takes thousands of rows in a moment."""
    rows = list(rows)
    declared = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
    connection.execute(f"CREATE TABLE {name} ({declared})")
    if rows:
        values = [[row[column] for row in rows] for column in columns]
        lists = ", ".join(f"unnest(?::{kind}[])" for kind in columns.values())
        connection.execute(f"INSERT INTO {name} SELECT {lists}", values)


def _run_row(results: Path, stored: Stored) -> dict[str, Any]:
    record, config = stored.record, stored.record.config
    denoiser = config.registers.denoiser
    none = config.without_registers()
    samples = record.samples
    return {
        "record_id": stored.record_id,
        "run_id": record.run_id,
        "arm_id": config.arm_id,
        "none_run_id": none.run_id,
        "none_arm_id": none.arm_id,
        "created": record.created,
        "path": str(stored.path.relative_to(results)),
        "status": record.status,
        "diverged_at_step": record.diverged_at_step,
        "task": config.task.name,
        "data_fingerprint": config.task.data_fingerprint,
        "protocol": protocol_id(config),
        "backbone": config.backbone,
        "exact_name": config.exact_name + (" on stand-in latents" if config.latents.kind == "stand-in" else ""),
        "registers": config.registers.preset,
        "stages": stages(config),
        "count": denoiser and denoiser.count,
        "start_block": denoiser and denoiser.start_block,
        "seed": config.seed,
        "steps": config.recipe.steps,
        "commit": record.provenance.commit,
        "dirty": record.provenance.dirty,
        "device": record.provenance.device,
        "samples": samples and str(stored.path.with_name(samples.file).relative_to(results)),
        "notes": "\n".join(record.notes),
        "config": config.model_dump_json(),
        "provenance": record.provenance.model_dump_json(),
    }


def stages(config: RunConfig) -> str:
    """What a run really has, in words: "none", "denoiser (no encoder stage here)", "test-time in encoder, denoiser"."""
    registers = config.registers
    in_encoder = registers.encoder
    kinds = {
        f"{in_encoder.kind} in encoder" if in_encoder else "encoder": in_encoder,
        "denoiser": registers.denoiser,
        "register guidance": registers.guidance,
        registers.attention.kind if registers.attention else "attention": registers.attention,
        f"MLPs x {registers.wider_mlp.factor:.3f}" if registers.wider_mlp else "mlp": registers.wider_mlp,
        "loss mask": registers.loss_mask,
    }
    present = ", ".join(words for words, part in kinds.items() if part is not None) or "none"
    if registers.native_tokens:
        present += f" + {registers.native_tokens} native tokens"
    missing = " or ".join(registers.absent_stages)
    return f"{present} (no {missing} stage here)" if missing else present


def protocol_id(config: RunConfig) -> str:
    """Equal where two runs of a task saw the same data and were judged alike: in words, and a digest of it all."""
    task, protocol = config.task, config.protocol
    text = task.model_dump_json(exclude_defaults=True) + protocol.model_dump_json(exclude_defaults=True)
    words = (
        f"v{protocol.version}, {protocol.num_images} images of {task.channels} x {task.image_size} x {task.image_size}"
    )
    words += "" if protocol.guidance.scale == 1.0 else f", guidance {protocol.guidance.scale:g}"
    return f"{words} [{hashlib.sha256(text.encode()).hexdigest()[:6]}]"
