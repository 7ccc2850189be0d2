"""Compute the distances of a record again from the moments that came with it, and compare."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness.attachments import path_beside
from harness.contributing.verdict import Breach
from harness.errors import UserError
from harness.records import RunRecord

# The digits' reference is made here: another processor's features differ in their last digits.  The cap keeps what
# that allows a large distance below what anybody would report.
_RELATIVE, _CAP, _ABSOLUTE = 1e-5, 1e-4, 1e-6
_REMEDY: Final = "submit the moments and the values of one and the same run"


def check_distances(record: RunRecord, path: Path, references: Path) -> Iterator[Breach | str]:
    """What the moments beside the record in the file `path` contradict, and in words what they could not be asked."""
    from harness.recomputing import recompute

    try:
        found = recompute(record, path_beside(path, "moments"), references)
    except UserError as error:
        yield Breach("distance", error.problem, error.remedy)
        return
    for measurement, value in found.values:
        if abs(value - measurement.value) > min(_RELATIVE * abs(measurement.value), _CAP) + _ABSOLUTE:
            problem = f"{measurement.name} is {measurement.value:.10g}, and its moments give {value:.10g}"
            yield Breach("distance", problem, _REMEDY)
    yield from (f"not computed again: {words}" for words in found.unavailable)
    if not found.values and not found.unavailable:
        yield "its moments cover none of its values: nothing was computed again"
