"""What an evaluation was of images that anybody's code made: frozen data, without torch."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from harness.attachments import Attachment
from harness.comparability import Circumstances, Conditions, Key
from harness.frozen import Frozen, NonNegativeInt, PositiveInt
from harness.outlier_records import OutlierStatistics
from harness.pipelines.identity import PipelineIdentity
from harness.records import Measurement, Provenance


class ImageSet(Frozen):
    """The images that were judged.  `sha256` is that of all pixels, whatever the order and the names of the files.

    `class_counts` are images per class in the order of the classes, None where no class is known; `duplicates` counts
    images that equal an earlier one pixel by pixel.
    """

    name: str
    kind: Literal["folder", "npz"]
    sha256: str
    num_images: PositiveInt
    channels: PositiveInt
    height: PositiveInt
    width: PositiveInt
    least_pixel: Annotated[int, Field(ge=0, le=255)]
    greatest_pixel: Annotated[int, Field(ge=0, le=255)]
    duplicates: NonNegativeInt
    class_counts: tuple[NonNegativeInt, ...] | None = None


class EvaluationRecord(Frozen):
    """One evaluation's outcome.  Written once, never changed.

    `run_id` is the run whose samples these are, None for images from elsewhere: what is said of those in `conditions`
    and `circumstances` was `declared` by the person who had them judged.  Of images that a pretrained `pipeline` made
    here nothing was declared; `outliers` are its transformer's, seen in sampling.
    """

    schema_version: Literal[1] = 1
    kind: Literal["evaluation"] = "evaluation"
    evaluation_id: str = Field(pattern=r"^[0-9a-f]{12}$")
    created: datetime
    images: ImageSet
    run_id: str | None = Field(default=None, pattern=r"^[0-9a-f]{12}$")
    title: str = ""
    declared: tuple[str, ...] = ()
    conditions: Conditions
    circumstances: Circumstances
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()
    verdicts: Attachment | None = None
    provenance: Provenance
    pipeline: PipelineIdentity | None = None
    outliers: tuple[OutlierStatistics, ...] = ()

    def value(self, name: str) -> float | None:
        """The first measurement of that name, or None where it was not taken."""
        return next((m.value for m in self.measurements if m.name == name), None)

    def key(self, measurement: Measurement) -> Key:
        """The comparability key of one of its measurements."""
        return Key(metric=measurement.name, conditions=self.conditions, basis=measurement.basis)
