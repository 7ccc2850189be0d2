"""What a run was, after it ran: frozen data, without torch."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from harness.frozen import Fraction, Frozen, NonNegativeFloat, NonNegativeInt, PositiveInt
from harness.spec import RunConfig


class Measurement(Frozen):
    """One number that a run gave.  Absent is not zero: what was not measured has no Measurement."""

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher", "neither"]
    num_images: PositiveInt | None = None
    note: str = ""


class OutlierStatistics(Frozen):
    """Token norms after one block at one noise level: per image first, then the mean over images.

    `share_above_*` are shares of the patch tokens whose norm exceeds a multiple of the image's median.
    Registers are apart: their norms, where there are any, are in units of the same patch median.
    """

    block: NonNegativeInt
    time: Fraction
    median_norm: NonNegativeFloat
    max_over_median: NonNegativeFloat
    share_above_3x: Fraction
    share_above_5x: Fraction
    channel_share: Fraction
    register_max_over_median: NonNegativeFloat | None = None


class SampleGrid(Frozen):
    """The picture beside the record: `rows` classes by `columns` images, unscaled PNG."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.png$")
    sha256: str
    rows: PositiveInt
    columns: PositiveInt


class Provenance(Frozen):
    """Which code, on which machine, made a record.  `commit` is None outside a checkout."""

    commit: str | None
    dirty: bool | None
    code_sha256: str
    versions: dict[str, str]
    machine: dict[str, str]
    device: str
    precision: str
    threads: PositiveInt
    sampling_batch: PositiveInt


class RunRecord(Frozen):
    """One run's outcome.  Written once, never changed."""

    schema_version: Literal[1] = 1
    run_id: str = Field(pattern=r"^[0-9a-f]{12}$")
    created: datetime
    status: Literal["finished", "diverged"]
    diverged_at_step: PositiveInt | None = None
    config: RunConfig
    measurements: tuple[Measurement, ...]
    outliers: tuple[OutlierStatistics, ...] = ()
    loss_curve: tuple[tuple[PositiveInt, float], ...] = ()
    samples: SampleGrid | None = None
    notes: tuple[str, ...] = ()
    provenance: Provenance

    def value(self, name: str) -> float | None:
        """The measurement of that name, or None where it was not taken."""
        return next((m.value for m in self.measurements if m.name == name), None)
