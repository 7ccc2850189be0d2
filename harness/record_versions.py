"""Read the records of every schema version as today's (no torch)."""

import json
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.circumstances import circumstances_of
from harness.comparability import Basis, conditions_of, guidance_used
from harness.digits_judge import EXTRACTOR, REFERENCE
from harness.outlier_records import basis_of_probe
from harness.records import Measurement, Provenance, RunRecord
from harness.spec import RunConfig

_JUDGED_BY_DIGITS = ("fd_digits", "digits_accuracy")


def read_record(content: bytes) -> RunRecord:
    """A run's record.  Raises pydantic's ValidationError for what is none.

    Version 1 said of its values in prose what version 2 says in `conditions`, `circumstances` and `basis`.
    """
    try:
        return RunRecord.model_validate_json(content)
    except ValidationError:
        written = _read_first(content)
        if written is None:
            raise
    return RunRecord.model_validate_json(json.dumps(_from_first(written)))


def _read_first(content: bytes) -> dict[str, Any] | None:
    """A record of version 1 as it was written; None for anything else."""
    try:
        written = json.loads(content)
    except ValueError:
        return None
    return written if isinstance(written, dict) and written.get("schema_version") == 1 else None


class _First(BaseModel):
    """As much of version 1 as is needed to say what it left in prose."""

    config: RunConfig
    provenance: Provenance
    measurements: tuple[Measurement, ...]


def _from_first(written: dict[str, Any]) -> dict[str, Any]:
    first = _First.model_validate(written)
    nfe = next((int(m.value) for m in first.measurements if m.name == "nfe"), None)
    return {
        **written,
        "schema_version": 2,
        "conditions": conditions_of(first.config).model_dump(mode="json"),
        "circumstances": circumstances_of(first.config, first.provenance, nfe, None).model_dump(mode="json"),
        "measurements": [
            _with_basis(first.config, measurement).model_dump(mode="json") for measurement in first.measurements
        ],
    }


def _with_basis(config: RunConfig, measurement: Measurement) -> Measurement:
    """Version 1 knew one judge, and named its weights and its reference in the note."""
    if measurement.name == "outlier_max_over_median":
        return measurement.model_copy(update={"basis": basis_of_probe(config.protocol)})
    if measurement.name not in _JUDGED_BY_DIGITS:
        return measurement
    guidance = guidance_used(config)
    if EXTRACTOR.weights_sha256[:12] not in measurement.note:
        another = Basis(guidance=guidance, settings=f"as noted: {measurement.note}")
        return measurement.model_copy(update={"basis": another})
    reference = REFERENCE if measurement.name == "fd_digits" else None
    known = Basis(extractor=EXTRACTOR, reference=reference, guidance=guidance)
    return measurement.model_copy(update={"basis": known})
