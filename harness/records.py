"""What a run was, after it ran: frozen data, without torch."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from harness.attachments import Attachment, Kind
from harness.comparability import Basis, Circumstances, Conditions, Key
from harness.frozen import Frozen, NonNegativeFloat, PositiveInt
from harness.outlier_records import OutlierStatistics
from harness.spec import RunConfig


class Measurement(Frozen):
    """One number that a run gave.  Absent is not zero: what was not measured has no Measurement.

    `basis` says how images were judged; None where nothing was judged, but counted or timed.  `parts` are numbers that
    `value` is made of, by name; `standard_error` is that over the generated images (jackknife), not over trainings.
    """

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher", "neither"]
    num_images: PositiveInt | None = None
    note: str = ""
    basis: Basis | None = None
    parts: dict[str, float] = Field(default_factory=dict)
    standard_error: NonNegativeFloat | None = None


class SampleGrid(Frozen):
    """The picture beside the record: `rows` classes by `columns` images, unscaled PNG."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.png$")
    sha256: str
    rows: PositiveInt
    columns: PositiveInt


class Provenance(Frozen):
    """Which code, on which machine, made a record.

    `commit` is None outside a checkout, `sampling_batch` where nothing was sampled.  So many `processes` worked
    together; their `sharding`, the pieces that each took of its part of a batch, and whether networks were compiled
    move the last digits of numbers.
    """

    commit: str | None
    dirty: bool | None
    code_sha256: str
    versions: dict[str, str]
    machine: dict[str, str]
    device: str
    precision: str
    threads: PositiveInt
    sampling_batch: PositiveInt | None
    processes: PositiveInt = 1
    accumulate: PositiveInt = 1
    sharding: Literal["ddp", "fsdp"] = "ddp"
    compiled: bool = False


class RunRecord(Frozen):
    """One run's outcome.  Written once, never changed.

    Each value's key is what may be compared with it; `circumstances` may differ, and are shown.  `moments`,
    `norm_maps` and `verdicts` are files beside it: the first only where it was submitted with them.
    """

    schema_version: Literal[2] = 2
    run_id: str = Field(pattern=r"^[0-9a-f]{12}$")
    created: datetime
    status: Literal["finished", "diverged"]
    diverged_at_step: PositiveInt | None = None
    config: RunConfig
    conditions: Conditions
    circumstances: Circumstances
    measurements: tuple[Measurement, ...]
    outliers: tuple[OutlierStatistics, ...] = ()
    loss_curve: tuple[tuple[PositiveInt, float], ...] = ()
    samples: SampleGrid | None = None
    moments: Attachment | None = None
    norm_maps: Attachment | None = None
    verdicts: Attachment | None = None
    notes: tuple[str, ...] = ()
    provenance: Provenance

    @property
    def attachments(self) -> dict[Kind, Attachment | None]:
        """The files beside it, None where it names none."""
        return {"moments": self.moments, "norms": self.norm_maps, "verdicts": self.verdicts}

    def value(self, name: str) -> float | None:
        """The measurement of that name, or None where it was not taken."""
        return next((m.value for m in self.measurements if m.name == name), None)

    def of_key(self, key: Key) -> Measurement | None:
        """The measurement of that comparability key, or None."""
        return next((m for m in self.measurements if self.key(m).digest == key.digest), None)

    def key(self, measurement: Measurement) -> Key:
        """The comparability key of one of its measurements."""
        return Key(metric=measurement.name, conditions=self.conditions, basis=measurement.basis)
