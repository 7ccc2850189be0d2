"""Whether an evaluation's record can be true: its images, what it measured, and the run that it names (no torch).

An evaluation_id is that of every single image, of labels and of references' files, which no record holds: it cannot be
computed again.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from harness.comparability import Circumstances, Conditions
from harness.contributing.values import is_judged
from harness.contributing.verdict import Breach
from harness.evaluation_records import EvaluationRecord, ImageSet
from harness.records import RunRecord

AS_MADE: Final = "submit the file as `eval` wrote it, and change nothing by hand"
LARGEST_SIDE: Final = 16_384
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RunSaid:
    """What a record of a run says that an evaluation of its samples repeats."""

    conditions: Conditions
    circumstances: Circumstances


def said_by(record: RunRecord) -> RunSaid:
    """That of a run's record."""
    return RunSaid(record.conditions, record.circumstances)


def breaches_of_images(record: EvaluationRecord) -> Iterator[Breach]:
    """What cannot be of the images, nor of what was measured of them."""
    yield from (Breach("evaluation", problem, AS_MADE) for problem in _impossible(record.images))
    images, conditions = record.images, record.conditions
    shapes = [(of.num_images, of.channels, of.height, of.width) for of in (images, conditions)]
    if shapes[0] != shapes[1] and conditions.resize == "none":
        yield Breach("conditions", f"its images are {shapes[0]}, and its conditions say {shapes[1]}", AS_MADE)
    if not record.measurements:
        yield Breach("evaluation", "it measured nothing", AS_MADE)
    counted = [measurement.name for measurement in record.measurements if not is_judged(measurement)]
    if counted:
        yield Breach("evaluation", f"it has {counted[0]}, which says nothing of images", AS_MADE)


def breaches_of_named_run(record: EvaluationRecord, told: Collection[RunSaid]) -> Iterator[Breach]:
    """What the records of the run contradict that an evaluation names; `told` has what each of them says."""
    if record.run_id is None:
        return
    if not told:
        remedy = "submit the run's record with it"
        yield Breach("evaluation", f"it judged the samples of run {record.run_id}, which has no record here", remedy)
    elif all(each.conditions != record.conditions for each in told):
        yield Breach("conditions", f"its conditions are not those of run {record.run_id}", AS_MADE)
    elif all(each.circumstances != record.circumstances for each in told):
        yield Breach("conditions", f"its circumstances are not those of run {record.run_id}", AS_MADE)


def _impossible(images: ImageSet) -> Iterator[str]:
    if not _SHA256.fullmatch(images.sha256):
        yield "the digest of its images is not 64 hexadecimal digits"
    if images.least_pixel > images.greatest_pixel:
        yield f"its least pixel is {images.least_pixel}, above the greatest, {images.greatest_pixel}"
    if images.duplicates >= images.num_images:
        yield f"{images.duplicates:,} of {images.num_images:,} images equal an earlier one"
    if images.channels not in (1, 3) or max(images.height, images.width) > LARGEST_SIDE:
        yield f"its images are {images.height} x {images.width} with {images.channels} channels"
    if images.class_counts is not None and sum(images.class_counts) != images.num_images:
        yield f"its classes hold {sum(images.class_counts):,} images, and there are {images.num_images:,}"
