"""How long runs are going to take, by what was measured before: never a guess (no torch)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import ValidationError

from harness import store
from harness.bench_records import read_benches, seconds_per_training_image
from harness.spec import RunConfig

SECONDS = ("train_seconds", "sampling_seconds")
CPU = "CPU"


@dataclass(frozen=True)
class Estimate:
    """Hours that a run is going to take of one device, and what says so."""

    hours: float
    on_gpu: bool
    source: str


class Estimates:
    """Of many runs: arms are asked after once, folders of records are read once."""

    def __init__(self, results: Path, *, on_gpu: bool) -> None:
        self._results, self._on_gpu = results, on_gpu
        self._records: dict[Path, list[Mapping[str, Any]]] = {}
        self._known: dict[str, Estimate | None] = {}

    def of(self, config: RunConfig) -> Estimate | None:
        """By records of the same arm with other seeds; else by a bench of its training; None where there is neither."""
        arm = config.arm_id
        if arm not in self._known:
            self._known[arm] = self._by_records(config, arm) or self._by_bench(config)
        return self._known[arm]

    def _by_records(self, config: RunConfig, arm: str) -> Estimate | None:
        alike = [record for record in self._in_folder(config) if _may_be(record, config) and _arm_of(record) == arm]
        timed = [(seconds * _processes(record), record) for record in alike if (seconds := _seconds(record))]
        if not timed:
            return None
        devices = sorted({str(record["provenance"]["machine"].get("device", "")) for _, record in timed} - {""})
        on_gpu = all(str(record["provenance"]["device"]).startswith("cuda") for _, record in timed)
        where = f" on {', '.join(devices)}" if devices else ""
        return Estimate(mean(seconds for seconds, _ in timed) / 3600, on_gpu, f"records of other seeds{where}")

    def _by_bench(self, config: RunConfig) -> Estimate | None:
        for device in self._devices():
            seconds = seconds_per_training_image(self._results, config, device)
            if seconds is not None:
                hours = config.training_steps * config.recipe.batch_size * seconds / 3600
                return Estimate(hours, device != CPU, f"bench training on {device}, sampling left out")
        return None

    def _devices(self) -> Sequence[str]:
        """Where training was timed, as far as the runs may go there; the newest first."""
        if not self._on_gpu:
            return [CPU]
        timed = [each.record for each in read_benches(self._results)[0] if each.record.device != CPU]
        newest = sorted(timed, key=lambda record: record.created, reverse=True)
        return list(dict.fromkeys(record.device for record in newest))

    def _in_folder(self, config: RunConfig) -> list[Mapping[str, Any]]:
        folder = self._results / store.MEASURED / config.task.name / config.backbone
        if folder not in self._records:
            self._records[folder] = [record for path in sorted(folder.glob("*.json")) if (record := _read(path))]
        return self._records[folder]


def said_in_all(estimates: Iterable[Estimate | None]) -> str:
    """The sum of some runs' estimates for a person, with what it rests on and how many runs it leaves out."""
    each = list(estimates)
    known = [estimate for estimate in each if estimate is not None]
    sums = [
        f"about {sum(estimate.hours for estimate in chosen):.2g} {unit}"
        for unit, chosen in (
            ("GPU-hours", [estimate for estimate in known if estimate.on_gpu]),
            ("CPU-hours", [estimate for estimate in known if not estimate.on_gpu]),
        )
        if chosen
    ]
    text = f"{' and '.join(sums)}, by {'; '.join(sorted({e.source for e in known}))}" if known else ""
    unknown = len(each) - len(known)
    if not unknown:
        return text
    measured = "not known: `python -m harness bench training --help` measures it"
    return f"{text}; of {unknown} more it is {measured}" if text else measured


def _read(path: Path) -> Mapping[str, Any] | None:
    """A record that is damaged says nothing of times; other verbs name it."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("config"), dict) else None


def _may_be(record: Mapping[str, Any], config: RunConfig) -> bool:
    """Whether it is worth a closer look."""
    its = record["config"]
    preset = its.get("registers", {}).get("preset", "none")
    return bool(its.get("size") == config.size and preset == config.registers.preset)


def _arm_of(record: Mapping[str, Any]) -> str | None:
    try:
        return RunConfig.model_validate(record["config"]).arm_id
    except ValidationError:
        return None


def _seconds(record: Mapping[str, Any]) -> float | None:
    """What training and sampling took; None where the record does not say both."""
    measured = {each["name"]: float(each["value"]) for each in record.get("measurements", [])}
    if record.get("status") != "finished" or not measured.keys() >= set(SECONDS):
        return None
    return sum(measured[name] for name in SECONDS)


def _processes(record: Mapping[str, Any]) -> int:
    """How many shared the work, with a device each; older records do not say it of one."""
    return int(record["provenance"].get("processes", 1))
