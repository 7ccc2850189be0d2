"""What becomes of a record in the database: the columns of its tables, and their rows (no torch)."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from harness.attachments import present
from harness.bench_records import BenchCase, StoredBench
from harness.comparability import Basis, Key
from harness.contributing.verdict import shown
from harness.evaluation_records import EvaluationRecord
from harness.evaluation_store import StoredEvaluation
from harness.identity import Identity
from harness.outlier_records import OutlierStatistics
from harness.records import RunRecord
from harness.registers import RegisterConfig
from harness.spec import RunConfig
from harness.stages import stages
from harness.store import Problem, Stored
from harness.withdrawals import Withdrawal

Row = dict[str, Any]
Columns = Mapping[str, str]

# Of every table: column -> SQL type.  A run whose `moments` lie beside its record is verified: whoever merged it has
# computed its distances again.  `third_party` is the file that its backbone came from, NULL for those of baselines/.
# `treatment` is equal for arms that have the same registers, whatever their presets are called.
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
    "treatment": "VARCHAR",
    "stages": "VARCHAR",
    "count": "INTEGER",
    "start_block": "INTEGER",
    "seed": "BIGINT",
    "steps": "INTEGER",
    "commit": "VARCHAR",
    "dirty": "BOOLEAN",
    "device": "VARCHAR",
    "third_party": "VARCHAR",
    "samples": "VARCHAR",
    "moments": "VARCHAR",
    "norm_maps": "VARCHAR",
    "verdicts": "VARCHAR",
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
    "verdicts": "VARCHAR",
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
# Records that no longer count, whether their files still lie there or not.
WITHDRAWN: Final[Columns] = {
    "record_id": "VARCHAR",
    "path": "VARCHAR",
    "reason": "VARCHAR",
    "created": "TIMESTAMPTZ",
}

_BASES = TypeAdapter(list[Basis | None])
_STATISTICS = itemgetter(*OutlierStatistics.model_fields)


def cells(columns: Columns, row: Row) -> tuple[Any, ...]:
    """A row's values in the order of its table's columns."""
    return tuple(row[column] for column in columns)


class RunRows:
    """The rows of `runs`.

    Hundreds of seeds share an arm: what follows from it is worked out once.
    """

    def __init__(self, results: Path) -> None:
        self._results = results
        self._of_arms: dict[Identity, Row] = {}

    def of(self, stored: Stored) -> Row:
        """That of a record."""
        record, config = stored.record, stored.record.config
        identity, samples = stored.identity, record.samples
        if identity not in self._of_arms:
            self._of_arms[identity] = _arm_cells(record)
        return {
            **self._of_arms[identity],
            "record_id": stored.record_id,
            "run_id": record.run_id,
            "none_run_id": identity.without_registers.run_id(config.seed),
            "created": record.created,
            "path": self._place(stored.path),
            "status": record.status,
            "diverged_at_step": record.diverged_at_step,
            "seed": config.seed,
            "commit": record.provenance.commit,
            "dirty": record.provenance.dirty,
            "device": record.provenance.device,
            "samples": samples and self._place(stored.path.with_name(samples.file)),
            "moments": self._place(present(stored.path, "moments", record.moments)),
            "norm_maps": self._place(present(stored.path, "norms", record.norm_maps)),
            "verdicts": self._place(present(stored.path, "verdicts", record.verdicts)),
            "notes": "\n".join(record.notes),
            "config": config.model_dump_json(),
            "provenance": record.provenance.model_dump_json(),
            "conditions": record.conditions.model_dump_json(),
            "circumstances": record.circumstances.model_dump_json(),
        }

    def _place(self, path: Path | None) -> str | None:
        return None if path is None else str(path.relative_to(self._results))


def _arm_cells(record: RunRecord) -> Row:
    """What all runs of an arm have in common, of whatever seed."""
    config = record.config
    denoiser = config.registers.denoiser
    return {
        "arm_id": config.arm_id,
        "none_arm_id": config.identity.without_registers.arm_id,
        "task": config.task.name,
        "data_fingerprint": config.task.data_fingerprint,
        "protocol": record.conditions.words(),
        "backbone": config.backbone,
        "exact_name": _exact_name(config),
        "registers": config.registers.preset,
        "treatment": _treatment(config.registers),
        "stages": stages(config),
        "count": denoiser and denoiser.count,
        "start_block": denoiser and denoiser.start_block,
        "steps": config.training_steps,
        "third_party": config.third_party and config.third_party.file,
    }


def _treatment(registers: RegisterConfig) -> str:
    """The digest of what a preset became on a backbone: `dsr` without an encoder stage is `denoiser`."""
    resolved = registers.model_dump_json(exclude={"preset", "absent_stages"})
    return hashlib.sha256(resolved.encode()).hexdigest()[:12]


def _exact_name(config: RunConfig) -> str:
    """The backbone with its size, and what sets it apart from the published one."""
    on_stand_in = " on stand-in latents" if config.latents.kind == "stand-in" else ""
    return f"{config.exact_name}{on_stand_in}{' (third-party)' if config.third_party else ''}"


def evaluation_row(results: Path, stored: StoredEvaluation) -> Row:
    """The row of `evaluations`."""
    record = stored.record
    verdicts = present(stored.path, "verdicts", record.verdicts)
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
        "verdicts": verdicts and str(verdicts.relative_to(results)),
        "provenance": record.provenance.model_dump_json(),
    }


class MeasurementRows:
    """The rows of `measurements`, and in `keys` those of the keys that they named so far, by their digests.

    Thousands of values share a comparability key: each is spelled out and hashed once.
    """

    def __init__(self) -> None:
        self._judged: dict[tuple[str, tuple[str, ...], bytes], list[Row]] = {}
        self.keys: dict[str, Row] = {}

    def of(self, stored: Stored | StoredEvaluation) -> Iterable[Row]:
        """One for each measurement of a record."""
        record_id, measurements = stored.record_id, stored.record.measurements
        for measurement, judged in zip(measurements, self._how_judged(stored.record), strict=True):
            yield {
                "record_id": record_id,
                "value": measurement.value,
                "unit": measurement.unit,
                "better": measurement.better,
                "num_images": measurement.num_images,
                "note": measurement.note,
                "standard_error": measurement.standard_error,
                "parts": json.dumps(measurement.parts) if measurement.parts else "{}",
                **judged,
            }

    def _how_judged(self, record: RunRecord | EvaluationRecord) -> list[Row]:
        """The cells of each measurement that decide what it is compared with."""
        names = tuple(measurement.name for measurement in record.measurements)
        bases = _BASES.dump_json([measurement.basis for measurement in record.measurements])
        same = (record.conditions.model_dump_json(), names, bases)
        if same not in self._judged:
            self._judged[same] = [self._cells(record.key(measurement)) for measurement in record.measurements]
        return self._judged[same]

    def _cells(self, key: Key) -> Row:
        if key.digest not in self.keys:
            self.keys[key.digest] = _key_row(key)
        return {"name": key.metric, "key": key.digest, **_basis_cells(key)}


def _basis_cells(key: Key) -> Row:
    basis = key.basis or Basis()
    return {
        "title": _title(key),
        "basis": key.basis and key.basis.model_dump_json(),
        "reference": basis.reference and basis.reference.name,
        "extractor": basis.extractor and basis.extractor.name,
        "guidance": key.basis and basis.guidance.words(),
    }


def _key_row(key: Key) -> Row:
    return {
        "key": key.digest,
        "none_key": key.without_register_guidance().digest,
        "name": key.metric,
        "task": key.conditions.task,
        "title": _title(key),
        "fields": key.model_dump_json(),
    }


def _title(key: Key) -> str:
    """What a column of values is headed by: "fid against val-50k (inception-clean)"."""
    return f"{key.metric} {key.basis.words()}".strip() if key.basis else key.metric


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
    return {"path": shown(str(problem.path.relative_to(results))), "reason": problem.reason}


def withdrawn_row(withdrawal: Withdrawal) -> Row:
    """The row of `withdrawn`."""
    return {"record_id": withdrawal.record_id, **withdrawal.model_dump(include={"path", "reason", "created"})}
