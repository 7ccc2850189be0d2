"""Whether a bench's record can be true: what was timed, in which units, and with which command (no torch)."""

import re
from collections.abc import Iterator
from typing import Final

from harness import registry
from harness.bench_records import BenchCase, BenchRecord
from harness.contributing.verdict import Breach
from harness.errors import UserError
from harness.records import Measurement

AS_MADE: Final = "submit the file as `bench --record` wrote it, and change nothing by hand"
MOST_CASES, MOST_MEASUREMENTS, MOST = 500, 500, 1e12
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9 _.,:/+()-]{0,79}")
_EXACT_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+){1,9}")
_UNITS: Final = frozenset(
    {
        *("s", "s, compilation included", "MiB", "MiB on the GPU", "records"),
        *("ratio", "ratio of seconds", "images/s", "of the dense bf16 peak", "forward passes per image"),
    }
)
_MATRIX_RATE: Final = re.compile(r"of \d{1,6}(\.\d{1,6})?(e\+\d\d)? TFLOP/s measured in bf16 products")
_SHARES: Final = "of the dense bf16 peak"


def breaches_of_timing(record: BenchRecord) -> Iterator[Breach]:
    """Everything in a bench's record that cannot be, but when and by what it was made."""
    if record.command.split(" ")[:2] != ["bench", record.subject]:
        yield Breach("provenance", f"{record.command[:60]!a} is no command that times {record.subject}", AS_MADE)
    if len(record.cases) > MOST_CASES:
        yield Breach("measurement", f"it timed {len(record.cases):,} cases: at most {MOST_CASES}", AS_MADE)
        return
    for case in record.cases:
        yield from _of_case(case)


def _of_case(case: BenchCase) -> Iterator[Breach]:
    if case.backbone and not _is_known(case.backbone):
        yield Breach("backbone", f"it timed {case.backbone[:60]!a}, and no backbone is called so", AS_MADE)
    if len(case.measurements) > MOST_MEASUREMENTS:
        yield Breach("measurement", f"a case has {len(case.measurements):,} measurements", AS_MADE)
        return
    for measurement in case.measurements:
        yield from _of_measurement(measurement)
    fastest = case.images_per_second.third_quartile if case.images_per_second else 0.0
    if max(case.gflops or 0.0, fastest) > MOST:
        yield Breach("range", "it timed what nothing is as large or as fast as", AS_MADE)


def _of_measurement(measurement: Measurement) -> Iterator[Breach]:
    name, unit, value = measurement.name, measurement.unit, measurement.value
    if not _NAME.fullmatch(name):
        yield Breach("measurement", f"{name[:60]!a} is no name of what is timed", AS_MADE)
    if unit not in _UNITS and not _MATRIX_RATE.fullmatch(unit):
        yield Breach("measurement", f"{unit[:60]!a} is no unit in which anything is timed", AS_MADE)
    most = 1.0 if unit == _SHARES else MOST
    if not 0 <= value <= most:
        yield Breach("range", f"{name[:60]!a} lies between 0 and {most:g}, not at {value:g}", AS_MADE)
    if measurement.parts or measurement.standard_error is not None or measurement.basis is not None:
        yield Breach("measurement", f"{name[:60]!a} was timed, and says on what images it rests", AS_MADE)


def _is_known(name: str) -> bool:
    """Whether this is the exact name of a backbone of ours.  It is no path: that would be opened."""
    try:
        return bool(_EXACT_NAME.fullmatch(name)) and registry.named(name).size is not None
    except UserError:
        return False
