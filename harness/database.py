"""Rebuild from all records the database that everything queries (no torch)."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from harness.comparability import Basis, Key
from harness.errors import UserError, disk_error
from harness.evaluation_store import StoredEvaluation, read_evaluations
from harness.outlier_records import OutlierStatistics
from harness.published import CLAIM_COLUMNS, PUBLISHED_COLUMNS, claim_rows, published_rows, read_published
from harness.records import Measurement
from harness.stages import stages
from harness.store import Problem, Stored, read_all

DATABASE = "leaderboard.duckdb"

# Column -> SQL type.
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
    "conditions": "VARCHAR",
    "circumstances": "VARCHAR",
}
_EVALUATIONS = {
    "record_id": "VARCHAR",
    "evaluation_id": "VARCHAR",
    "run_id": "VARCHAR",
    "created": "TIMESTAMPTZ",
    "path": "VARCHAR",
    "title": "VARCHAR",
    "images": "VARCHAR",
    "protocol": "VARCHAR",
    "conditions": "VARCHAR",
    "circumstances": "VARCHAR",
    "declared": "VARCHAR",
    "notes": "VARCHAR",
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
    "standard_error": "DOUBLE",
    "parts": "VARCHAR",
    "key": "VARCHAR",
    "title": "VARCHAR",
    "basis": "VARCHAR",
    "reference": "VARCHAR",
    "extractor": "VARCHAR",
    "guidance": "VARCHAR",
}
# One row for each comparability key: values are compared within one of them.
# `none_key` is that of the matched value without registers, which differs where registers guide.
_KEYS = {
    "key": "VARCHAR",
    "none_key": "VARCHAR",
    "name": "VARCHAR",
    "task": "VARCHAR",
    "title": "VARCHAR",
    "fields": "VARCHAR",
}
_OUTLIERS = {
    "record_id": "VARCHAR",
    **{name: "INTEGER" if name == "block" else "DOUBLE" for name in OutlierStatistics.model_fields},
}
_CURVES = {"record_id": "VARCHAR", "step": "INTEGER", "loss": "DOUBLE"}
_PROBLEMS = {"path": "VARCHAR", "reason": "VARCHAR"}


@dataclass(frozen=True)
class Index:
    """What `rebuild` put into the database, and what it had to leave out."""

    database: Path
    records: int
    problems: Sequence[Problem]


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
            evaluations, unread = read_evaluations(results)
            published = read_published(results)
            problems += [*unread, *(Problem(path, reason) for path, reason in published.problems)]
            with contextlib.closing(duckdb.connect(str(part))) as connection:
                _fill(connection, results, stored, evaluations, problems)
                _table(connection, "published", PUBLISHED_COLUMNS, published_rows(published))
                _table(connection, "claims", CLAIM_COLUMNS, claim_rows(published))
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


def _fill(
    connection: duckdb.DuckDBPyConnection,
    results: Path,
    stored: Sequence[Stored],
    evaluations: Sequence[StoredEvaluation],
    problems: Sequence[Problem],
) -> None:
    _table(connection, "runs", _RUNS, [_run_row(results, each) for each in stored])
    _table(connection, "evaluations", _EVALUATIONS, [_evaluation_row(results, each) for each in evaluations])
    judged: list[Stored | StoredEvaluation] = [*stored, *evaluations]
    _table(
        connection,
        "measurements",
        _MEASUREMENTS,
        [_measurement_row(each, measurement) for each in judged for measurement in each.record.measurements],
    )
    keys = {key.digest: key for each in judged for key in map(each.record.key, each.record.measurements)}
    _table(connection, "keys", _KEYS, [_key_row(digest, key) for digest, key in keys.items()])
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
    connection: duckdb.DuckDBPyConnection, name: str, columns: Mapping[str, str], rows: Iterable[dict[str, Any]]
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
        "protocol": record.conditions.words(),
        "backbone": config.backbone,
        "exact_name": config.exact_name + (" on stand-in latents" if config.latents.kind == "stand-in" else ""),
        "registers": config.registers.preset,
        "stages": stages(config),
        "count": denoiser and denoiser.count,
        "start_block": denoiser and denoiser.start_block,
        "seed": config.seed,
        "steps": config.training_steps,
        "commit": record.provenance.commit,
        "dirty": record.provenance.dirty,
        "device": record.provenance.device,
        "samples": samples and str(stored.path.with_name(samples.file).relative_to(results)),
        "notes": "\n".join(record.notes),
        "config": config.model_dump_json(),
        "provenance": record.provenance.model_dump_json(),
        "conditions": record.conditions.model_dump_json(),
        "circumstances": record.circumstances.model_dump_json(),
    }


def _evaluation_row(results: Path, stored: StoredEvaluation) -> dict[str, Any]:
    record = stored.record
    return {
        "record_id": stored.record_id,
        "evaluation_id": record.evaluation_id,
        "run_id": record.run_id,
        "created": record.created,
        "path": str(stored.path.relative_to(results)),
        "title": record.title or record.images.name,
        "images": record.images.model_dump_json(),
        "protocol": record.conditions.words(),
        "conditions": record.conditions.model_dump_json(),
        "circumstances": record.circumstances.model_dump_json(),
        "declared": "\n".join(record.declared),
        "notes": "\n".join(record.notes),
        "provenance": record.provenance.model_dump_json(),
    }


def _measurement_row(stored: Stored | StoredEvaluation, measurement: Measurement) -> dict[str, Any]:
    basis = measurement.basis or Basis()
    return {
        "record_id": stored.record_id,
        **measurement.model_dump(include={"name", "value", "unit", "better", "num_images", "note", "standard_error"}),
        "parts": json.dumps(measurement.parts),
        "key": stored.record.key(measurement).digest,
        "title": _title(measurement.name, measurement.basis),
        "basis": measurement.basis and measurement.basis.model_dump_json(),
        "reference": basis.reference and basis.reference.name,
        "extractor": basis.extractor and basis.extractor.name,
        "guidance": measurement.basis and basis.guidance.words(),
    }


def _key_row(digest: str, key: Key) -> dict[str, Any]:
    return {
        "key": digest,
        "none_key": key.without_register_guidance().digest,
        "name": key.metric,
        "task": key.conditions.task,
        "title": _title(key.metric, key.basis),
        "fields": key.model_dump_json(),
    }


def _title(name: str, basis: Basis | None) -> str:
    """What a column of values is headed by: "fid against val-50k (inception-clean)"."""
    return f"{name} {basis.words()}".strip() if basis else name
