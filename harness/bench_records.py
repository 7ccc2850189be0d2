"""What was timed, by `bench --record`: frozen data that is appended, never changed (no torch)."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from harness.errors import UserError
from harness.files import write_text
from harness.frozen import Frozen, PositiveFloat, PositiveInt
from harness.plain_files import reason_of
from harness.records import Measurement, Provenance
from harness.registers import RegisterConfig
from harness.spec import RunConfig
from harness.store import Problem, content_of

BENCH = "bench"

Subject = Literal["training", "sampling", "features", "frechet", "encoder", "overhead", "cost", "store", "board"]


class Quartiles(Frozen):
    """The median of what was timed repeatedly, and its first and third quartile."""

    median: PositiveFloat
    first_quartile: PositiveFloat
    third_quartile: PositiveFloat

    @model_validator(mode="after")
    def _check_order(self) -> "Quartiles":
        if not self.first_quartile <= self.median <= self.third_quartile:
            raise ValueError("quartiles ascend, with the median between them")
        return self

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.first_quartile:.4g} to {self.third_quartile:.4g})"


class BenchCase(Frozen):
    """One thing that was timed.  What it has no use for is absent, as a batch of a database's rebuild.

    `gflops` are those of one image's conditional forward pass.  `images_per_second` of a subject "training" are those
    of whole training steps.  `measurements` hold everything else.
    """

    title: str
    backbone: str = ""
    network: dict[str, Any] = Field(default_factory=dict)
    registers: RegisterConfig | None = None
    batch: PositiveInt | None = None
    compiled: bool | None = None
    precision: str = ""
    gflops: PositiveFloat | None = None
    images_per_second: Quartiles | None = None
    measurements: tuple[Measurement, ...] = ()

    def is_of(self, config: RunConfig) -> bool:
        """Whether a run of this configuration has the network and the registers that were timed."""
        return self.registers == config.registers and _spelled(self.network) == _spelled(config.network)


class BenchRecord(Frozen):
    """One call of `bench`.  `settings` are all of its flags by their names; `device` is what a GPU calls itself."""

    schema_version: Literal[1] = 1
    kind: Literal["bench"] = "bench"
    subject: Subject
    created: datetime
    command: str
    settings: dict[str, str]
    device: str
    cases: tuple[BenchCase, ...] = Field(min_length=1)
    provenance: Provenance

    @property
    def digest(self) -> str:
        """12 hexadecimal digits of all that it says, which a new field that keeps its default does not move."""
        return hashlib.sha256(_spelled(self.model_dump(mode="json", exclude_defaults=True)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class StoredBench:
    """A record and the file that it was read from."""

    record: BenchRecord
    path: Path


def append_bench(results: Path, record: BenchRecord) -> Path:
    """Write a record as a new file, validated as a reader would; returns its path.

    An existing file is never overwritten.  Raises UserError where the folder cannot be written.
    """
    text = record.model_dump_json(indent=1) + "\n"
    assert BenchRecord.model_validate_json(text) == record, "a record that reads back differently"
    path = results / BENCH / record.subject / f"{record.created:%Y%m%dT%H%M%S%fZ}-{record.digest}.json"
    if path.exists():
        raise UserError(f"{path} exists already, and records are never overwritten", "run the command again")
    write_text(path, text)
    return path


def read_benches(results: Path) -> tuple[list[StoredBench], list[Problem]]:
    """Every record below `results/bench`, in the order of their names, and every file that is none."""
    each = [_read(path) for path in sorted((results / BENCH).rglob("*.json"))]
    return [e for e in each if isinstance(e, StoredBench)], [e for e in each if isinstance(e, Problem)]


def seconds_per_training_image(
    results: Path, config: RunConfig, device_name: str, gflops: Callable[[RunConfig], float] | None = None
) -> float | None:
    """What training takes for an image, by the records of `bench training --record` on devices of that name.

    Where the run's own network and registers were timed, that counts; otherwise `gflops`, those of a configuration's
    forward pass, scales the timing that is nearest in operations; without it, and where nothing was timed on such a
    device, the answer is None.  Of several timings that counts which is like the run: compiled or not, of its
    precision, and nearest to what one of its processes has of a batch; the newest of equals.  `device_name` is that of
    CUDA, or "CPU" for any: the timing's threads are no part of it.
    """
    stored, _ = read_benches(results)
    newest_first = sorted((each.record for each in stored), key=lambda record: record.created, reverse=True)
    cases = [
        case
        for record in newest_first
        if record.subject == "training" and record.device == device_name
        for case in record.cases
        if case.images_per_second is not None
    ]
    own = [case for case in cases if case.is_of(config)]
    if own:
        return _seconds_per_image(min(own, key=lambda case: _unlikeness(case, config, device_name)))
    return _scaled(config, cases, device_name, gflops(config)) if gflops else None


def _unlikeness(case: BenchCase, config: RunConfig, device_name: str) -> tuple[bool, bool, float]:
    """How far a timing is from what a run does; sorted, the nearest is first."""
    execution, precision = config.execution, config.recipe.precision
    if precision == "auto":
        precision = "float32" if device_name == "CPU" else "bf16"
    piece = max(1, config.recipe.batch_size // (execution.processes * execution.accumulate))
    is_otherwise_compiled = bool(case.compiled) != execution.compiled
    return is_otherwise_compiled, case.precision != precision, abs(math.log((case.batch or 1) / piece))


def _scaled(config: RunConfig, cases: Iterable[BenchCase], device_name: str, gflops: float) -> float | None:
    """By operations, from the case that is most like the run, and of those the nearest in operations."""
    counted = [(case, case.gflops) for case in cases if case.gflops is not None]
    if not counted:
        return None
    nearest, its_gflops = min(
        counted, key=lambda each: (*_unlikeness(each[0], config, device_name)[:2], abs(math.log(each[1] / gflops)))
    )
    return _seconds_per_image(nearest) * gflops / its_gflops


def _seconds_per_image(case: BenchCase) -> float:
    assert case.images_per_second is not None, case
    return 1 / case.images_per_second.median


def _read(path: Path) -> StoredBench | Problem:
    content = content_of(path)
    if isinstance(content, Problem):
        return content
    try:
        record = BenchRecord.model_validate_json(content)
    except ValidationError as error:
        return Problem(path, reason_of(error))
    if path.parent.name != record.subject:
        return Problem(path, f"this record belongs into {BENCH}/{record.subject}/, and counts only there")
    if not path.stem.endswith(record.digest):
        return Problem(path, f"the file's name does not end in the digest of what it says, {record.digest}")
    return StoredBench(record, path)


def _spelled(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
