"""Probe a denoiser for outlier tokens: one that a run trained here, or a released one."""

import json
from dataclasses import dataclass
from pathlib import Path

from harness import data, tasks
from harness.build import build, load_released
from harness.changes import Changes
from harness.denoiser import Denoiser
from harness.errors import UserError, first_few
from harness.images import Pixels
from harness.machine import decide_precision, start
from harness.metrics import outliers
from harness.metrics.outliers import NormMaps
from harness.open_codec import open_codec
from harness.outlier_records import RULE, OutlierStatistics, Verdict, verdict_of, worst_of
from harness.records import RunRecord
from harness.source import Source
from harness.spec import Execution, RunConfig
from harness.weights import fitted, read_tensors
from harness.workspace import Workspace

SHOWN_IMAGES = 6
NAMED_RUNS = 5


@dataclass(frozen=True)
class Shown:
    """The images of a figure, (N, C, H, W) in 0..255, and their norms where the largest norm was found."""

    pixels: Pixels
    maps: NormMaps
    worst: OutlierStatistics


@dataclass(frozen=True)
class ProbedDenoiser:
    """What was found in a denoiser; `name` is its run's id, or its weights' name.

    `shown` is None where no block has norms that are numbers.
    """

    name: str
    config: RunConfig
    images: int
    statistics: tuple[OutlierStatistics, ...]
    shown: Shown | None

    @property
    def verdict(self) -> Verdict:
        """The answer in words."""
        return verdict_of(self.statistics)

    @property
    def title(self) -> str:
        """`sit-tiny on digits, registers denoiser, run 0123456789ab`."""
        registers, kind = self.config.registers.preset, "run" if self.config.weights is None else "weights"
        return f"{self.config.exact_name} on {self.config.task.name}, registers {registers}, {kind} {self.name}"

    def text(self) -> str:
        """All numbers as JSON, with the verdict and its rule."""
        told = {
            "name": self.name,
            "backbone": self.config.exact_name,
            "task": self.config.task.name,
            "registers": self.config.registers.preset,
            "images": self.images,
            "verdict": self.verdict,
            "rule": RULE,
            "outliers": [each.model_dump(mode="json", exclude_none=True) for each in self.statistics],
        }
        return json.dumps(told, indent=1) + "\n"


def probe_run(run_id: str, changes: tuple[str, ...], execution: Execution, images: int | None) -> ProbedDenoiser:
    """Probe the denoiser of a finished run, on `images` of its task (None: as many as the run itself did).

    Raises UserError where the run is not here, is not finished, kept no weights, or its images are others now.
    """
    space = _workspace(Path(execution.runs), run_id)
    record = space.finished()
    if record is None:
        raise UserError(
            f"run {run_id} is not finished: it has no record in {space.folder}",
            "give its `run` command again: it goes on from where it stopped",
        )
    _require_weights(space, record)
    execution = Changes(changes, ["execution"]).apply("execution", execution)
    config = record.config.model_copy(update={"execution": execution})
    _require_same_images(config)
    denoiser = build(config)
    denoiser.load_state_dict(fitted(denoiser, read_tensors(space.weights), names={}), strict=True)
    return _probe(run_id, config, denoiser, images)


def probe_weights(config: RunConfig, images: int | None) -> ProbedDenoiser:
    """Probe the released model of a resolved run."""
    assert config.weights is not None, "nothing to probe"
    assert config.execution.weights is not None, "released weights without a place"
    denoiser = build(config)
    load_released(config, denoiser, config.execution.weights, config.weights.sha256)
    return _probe(config.weights.name, config, denoiser, images)


def _workspace(runs: Path, run_id: str) -> Workspace:
    known = sorted(folder.parent.name for folder in runs.glob("*/record.json"))
    if not run_id or "/" in run_id or not (runs / run_id).is_dir():
        here = f"finished runs are here: {first_few(known, NAMED_RUNS)}" if known else "no finished run is here"
        raise UserError(
            f"there is no run {run_id!r} in {runs}",
            f"{here}; a run is probed where its weights are: --runs DIR",
        )
    return Workspace(runs / run_id)


def _require_weights(space: Workspace, record: RunRecord) -> None:
    if space.weights.exists():
        return
    if record.status == "diverged":
        raise UserError(f"run {record.run_id} diverged: it kept no weights to probe", "probe a run that has finished")
    raise UserError(
        f"the weights of run {record.run_id} are missing: {space.weights}",
        "bring the file back, or make it anew by the run's command with --again",
    )


def _require_same_images(config: RunConfig) -> None:
    task, folder = config.task, config.execution.data
    if task.data_fingerprint and folder is None and not tasks.find(task.name).brings_images:
        raise UserError(f"the task {task.name} needs images", "add --data DIR, the folder that the run was trained on")
    located = tasks.find(task.name).locate(Path(folder) if folder else None).task
    if located.data_fingerprint != task.data_fingerprint:
        raise UserError(
            f"{folder} does not hold the images that the run was trained on: some were moved, added or changed",
            "give --data the folder as it was then",
        )


def _probe(name: str, config: RunConfig, denoiser: Denoiser, images: int | None) -> ProbedDenoiser:
    count = images or config.protocol.outlier_images
    config = config.model_copy(update={"protocol": config.protocol.model_copy(update={"outlier_images": count})})
    device = start(config.execution.device, config.execution.threads)
    decide_precision(config.recipe.precision, device)
    codec, _ = open_codec(config, device)
    folder = Path(config.execution.data) if config.execution.data else None
    source = Source(data.load_few(config.task, folder, count), codec)
    statistics = outliers.probe(config, denoiser.to(device), source)
    worst = worst_of(statistics)
    shown = None if worst is None else _shown(config, denoiser, source, worst)
    return ProbedDenoiser(name, config, min(count, len(source.images)), tuple(statistics), shown)


def _shown(config: RunConfig, denoiser: Denoiser, source: Source, worst: OutlierStatistics) -> Shown:
    maps = outliers.norm_maps(config, denoiser, source, worst, SHOWN_IMAGES)
    return Shown(source.images.pixels(maps.indices), maps, worst)
