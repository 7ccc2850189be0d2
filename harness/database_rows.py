"""What becomes of a record in the database: the columns of its tables, and their rows (no torch)."""

import json
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from harness.bench_records import BenchCase, StoredBench
from harness.comparability import Basis, Key
from harness.evaluation_store import StoredEvaluation
from harness.outlier_records import OutlierStatistics
from harness.records import Measurement
from harness.stages import stages
from harness.store import Problem, Stored

Row = dict[str, Any]
Columns = Mapping[str, str]

# Of every table: column -> SQL type.
RUNS: Final[Columns] = {
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
EVALUATIONS: Final[Columns] = {
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
MEASUREMENTS: Final[Columns] = {
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
KEYS: Final[Columns] = {
    "key": "VARCHAR",
    "none_key": "VARCHAR",
    "name": "VARCHAR",
    "task": "VARCHAR",
    "title": "VARCHAR",
    "fields": "VARCHAR",
}
OUTLIERS: Final[Columns] = {
    "record_id": "VARCHAR",
    **{name: "INTEGER" if name == "block" else "DOUBLE" for name in OutlierStatistics.model_fields},
}
CURVES: Final[Columns] = {"record_id": "VARCHAR", "step": "INTEGER", "loss": "DOUBLE"}
BENCHES: Final[Columns] = {
    "record_id": "VARCHAR",
    "created": "TIMESTAMPTZ",
    "path": "VARCHAR",
    "subject": "VARCHAR",
    "device": "VARCHAR",
    "title": "VARCHAR",
    "backbone": "VARCHAR",
    "registers": "VARCHAR",
    "batch": "INTEGER",
    "compiled": "BOOLEAN",
    "precision": "VARCHAR",
    "gflops": "DOUBLE",
    "images_per_second": "DOUBLE",
    "first_quartile": "DOUBLE",
    "third_quartile": "DOUBLE",
    "measurements": "VARCHAR",
}
PROBLEMS: Final[Columns] = {"path": "VARCHAR", "reason": "VARCHAR"}

_STATISTICS = itemgetter(*OutlierStatistics.model_fields)


def run_row(results: Path, stored: Stored) -> Row:
    """The row of `runs`."""
    record, config = stored.record, stored.record.config
    denoiser = config.registers.denoiser
    arm_id = config.arm_id
    none = config.without_registers()
    is_none = none.registers == config.registers
    samples = record.samples
    return {
        "record_id": stored.record_id,
        "run_id": record.run_id,
        "arm_id": arm_id,
        "none_run_id": record.run_id if is_none else none.run_id,
        "none_arm_id": arm_id if is_none else none.arm_id,
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


def evaluation_row(results: Path, stored: StoredEvaluation) -> Row:
    """The row of `evaluations`."""
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


class MeasurementRows:
    """The rows of `measurements`, and those of `keys` that they name.

    Thousands of values share a comparability key: each is spelled out and hashed once.
    """

    def __init__(self) -> None:
        self._judged: dict[tuple[str, str, str | None], Row] = {}
        self._keys: dict[str, Row] = {}

    def of(self, stored: Stored | StoredEvaluation) -> Iterable[Row]:
        """One for each measurement of a record."""
        record_id, conditions = stored.record_id, stored.record.conditions.model_dump_json()
        for measurement in stored.record.measurements:
            yield {
                "record_id": record_id,
                "name": measurement.name,
                "value": measurement.value,
                "unit": measurement.unit,
                "better": measurement.better,
                "num_images": measurement.num_images,
                "note": measurement.note,
                "standard_error": measurement.standard_error,
                "parts": json.dumps(measurement.parts),
                **self._how_judged(stored, conditions, measurement),
            }

    def keys(self) -> Iterable[Row]:
        """One for each key that any measurement had so far."""
        return self._keys.values()

    def _how_judged(self, stored: Stored | StoredEvaluation, conditions: str, measurement: Measurement) -> Row:
        basis = measurement.basis.model_dump_json() if measurement.basis else None
        same = (conditions, measurement.name, basis)
        if same not in self._judged:
            key = stored.record.key(measurement)
            self._judged[same] = {"key": key.digest, "basis": basis, **_basis_cells(measurement)}
            self._keys[key.digest] = _key_row(key)
        return self._judged[same]


def _basis_cells(measurement: Measurement) -> Row:
    basis = measurement.basis or Basis()
    return {
        "title": _title(measurement.name, measurement.basis),
        "reference": basis.reference and basis.reference.name,
        "extractor": basis.extractor and basis.extractor.name,
        "guidance": measurement.basis and basis.guidance.words(),
    }


def _key_row(key: Key) -> Row:
    return {
        "key": key.digest,
        "none_key": key.without_register_guidance().digest,
        "name": key.metric,
        "task": key.conditions.task,
        "title": _title(key.metric, key.basis),
        "fields": key.model_dump_json(),
    }


def _title(name: str, basis: Basis | None) -> str:
    """What a column of values is headed by: "fid against val-50k (inception-clean)"."""
    return f"{name} {basis.words()}".strip() if basis else name


def outlier_numbers(stored: Stored) -> list[tuple[float | None, ...]]:
    """The rows of `outliers` but for their record's id: one for each block and noise level."""
    return [_STATISTICS(vars(statistics)) for statistics in stored.record.outliers]


def bench_rows(results: Path, stored: StoredBench) -> Iterable[Row]:
    """The rows of `benches`: one for each case."""
    record = stored.record
    whole = {
        "record_id": stored.path.stem,
        "created": record.created,
        "path": str(stored.path.relative_to(results)),
        "subject": record.subject,
        "device": record.device,
    }
    return (whole | _case_cells(case) for case in record.cases)


def _case_cells(case: BenchCase) -> Row:
    speed = case.images_per_second
    return {
        "title": case.title,
        "backbone": case.backbone or None,
        "registers": case.registers and case.registers.preset,
        "batch": case.batch,
        "compiled": case.compiled,
        "precision": case.precision or None,
        "gflops": case.gflops,
        "images_per_second": speed and speed.median,
        "first_quartile": speed and speed.first_quartile,
        "third_quartile": speed and speed.third_quartile,
        "measurements": json.dumps([measurement.model_dump(mode="json") for measurement in case.measurements]),
    }


def problem_row(results: Path, problem: Problem) -> Row:
    """The row of `problems`."""
    return {"path": str(problem.path.relative_to(results)), "reason": problem.reason}
