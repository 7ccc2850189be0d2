"""A run's images: made as its protocol says, kept, and judged."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from harness.comparability import UNGUIDED, guidance_used
from harness.digits_judge import REFERENCE as DIGITS
from harness.files import sha256_of, write_arrays, write_bytes
from harness.images import Pixels, grid
from harness.judging import Scores, find_judges, score_run, setting_of
from harness.metrics import cost
from harness.objective import is_adaptive
from harness.records import Measurement, SampleGrid
from harness.sample import Sampled, label_of, sample_all
from harness.spec import Guidance, RunConfig
from harness.stopwatch import Stopwatch
from harness.workspace import Workspace

GRID_ROWS, GRID_COLUMNS = 10, 10


@dataclass(frozen=True)
class Made:
    """What a run's images gave; `cost` is the time of making them, `samples` None where they are no numbers."""

    judged: tuple[Measurement, ...]
    cost: Measurement
    notes: tuple[str, ...]
    samples: SampleGrid | None


def require_judges(config: RunConfig, device: torch.device) -> None:
    """Raise UserError where the samples of a run that is still to be trained could not be judged as was asked."""
    names = _references(config)
    if names:
        shape = (config.task.channels, config.task.image_size, config.task.image_size)
        find_judges(names, shape, setting_of(config.execution, device))


def make(config: RunConfig, space: Workspace, made_from: Sampled, precision: str) -> Made:
    """Sample as the protocol says, and where that guides without guidance too: only that compares with everyone's.

    What an earlier attempt has made is taken from the workspace.  Raises UserError where a reference cannot be had.
    """
    with Stopwatch(space.folder / "sampling-seconds") as watch:
        pixels = _sample(config, space, made_from, precision, watch.keep)
    seconds = cost.duration("sampling_seconds", watch.seconds)
    if pixels is None:
        return Made((), seconds, ("the training ended well, and sampling gave values that are no numbers",), None)
    scores = _judge(config, pixels, space.samples, space, made_from)
    plain = _unguided(config, space, made_from, precision)
    return Made(
        judged=(*scores.measurements, *plain.measurements),
        cost=seconds,
        notes=(*_sampling_notes(config, made_from.codec.device), *scores.notes, *plain.notes),
        samples=_picture(config, pixels, space.picture),
    )


def _unguided(config: RunConfig, space: Workspace, made_from: Sampled, precision: str) -> Scores:
    """What the same network gives without guidance of any kind; nothing where there is none."""
    if guidance_used(config) == UNGUIDED:
        return Scores([], [])
    protocol = config.protocol.model_copy(update={"guidance": Guidance()})
    registers = config.registers.model_copy(update={"guidance": None})
    plain = config.model_copy(update={"protocol": protocol, "registers": registers})
    pixels = _sample(plain, space, made_from, precision, lambda: None)
    if pixels is None:
        return Scores([], ["sampling without guidance gave values that are no numbers"])
    return Scores(_judge(plain, pixels, space.unguided_samples, space, made_from).measurements, [])


def _sample(
    config: RunConfig, space: Workspace, made_from: Sampled, precision: str, on_part: Callable[[], None]
) -> Pixels | None:
    """Batches belong to the weights that made them, to what decodes them, and to the guidance."""
    words = [sha256_of(space.weights)[:12], (made_from.codec.weights_sha256 or "")[:12]]
    words += ["guided"] if guidance_used(config) != UNGUIDED else []
    return sample_all(config, made_from, space.sample_parts / "-".join(filter(None, words)), precision, on_part)


def _judge(config: RunConfig, pixels: Pixels, kept: Path, space: Workspace, made_from: Sampled) -> Scores:
    """What samples score against the references of the task, and those that were asked for."""
    labels = label_of(config, np.arange(len(pixels)))
    write_arrays(kept, {"arr_0": pixels.transpose(0, 2, 3, 1), "labels": labels})
    names = _references(config)
    if not names:
        return Scores([], ["not judged: name references (--references, or later `eval --run`)"])
    setting = setting_of(config.execution, made_from.codec.device)
    return score_run(kept, names, guidance_used(config), setting, space.features)


def _references(config: RunConfig) -> tuple[str, ...]:
    """Those of the task, and those that were asked for."""
    return (*((DIGITS.name,) if config.task.metric == "fd_digits" else ()), *config.execution.references)


def _sampling_notes(config: RunConfig, device: torch.device) -> list[str]:
    if is_adaptive(config.sampler):
        cause = "the adaptive solver chooses its steps by an error over the whole batch"
        return [f"images depend on the sampling batch within the solver's tolerances: {cause}"]
    if device.type == "cuda":
        return ["images depend on the sampling batch by rounding: matrix products of other shapes on a GPU"]
    return []


def _picture(config: RunConfig, pixels: Pixels, path: Path) -> SampleGrid:
    """A row for each class, or for the first ten; its images in the order they were made, none picked."""
    classes = config.task.num_classes
    rows, columns = min(classes, GRID_ROWS), min(len(pixels) // classes, GRID_COLUMNS)
    indices = np.arange(rows)[:, None] + classes * np.arange(columns)
    encoded = BytesIO()
    grid(pixels[indices.ravel()], columns).save(encoded, "PNG")
    write_bytes(path, encoded.getvalue())
    return SampleGrid(
        file="to-be-named.png",
        sha256=hashlib.sha256(encoded.getvalue()).hexdigest(),
        rows=rows,
        columns=columns,
    )
