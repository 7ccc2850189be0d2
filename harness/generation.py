"""A run's images: made as its protocol says, kept, and judged."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from harness.attachments import Attachment
from harness.comparability import UNGUIDED, guidance_used
from harness.digits_judge import REFERENCE as DIGITS
from harness.distributed import ALONE, World
from harness.files import sha256_of, write_arrays, write_bytes
from harness.images import grid
from harness.judging import Scores, find_judges, score_run, setting_of
from harness.metrics import cost
from harness.moment_files import write_moments
from harness.objective import is_adaptive
from harness.records import Measurement, SampleGrid
from harness.sample import Parts, Sampled, label_of, sample_all
from harness.spec import Guidance, RunConfig
from harness.stopwatch import Stopwatch
from harness.workspace import Workspace

GRID_ROWS, GRID_COLUMNS = 10, 10


@dataclass(frozen=True)
class Made:
    """What a run's images gave; `cost` is the time of making them, `samples` None where they are no numbers.

    `moments` are None where no distance was measured.
    """

    judged: tuple[Measurement, ...]
    cost: Measurement
    notes: tuple[str, ...]
    samples: SampleGrid | None
    moments: Attachment | None = None


def require_judges(config: RunConfig, device: torch.device) -> None:
    """Raise UserError where the samples of a run that is still to be trained could not be judged as was asked."""
    names = _references(config)
    if names:
        shape = (config.task.channels, config.task.image_size, config.task.image_size)
        find_judges(names, shape, setting_of(config.execution, device))


def make(config: RunConfig, space: Workspace, made_from: Sampled, precision: str, world: World = ALONE) -> Made | None:
    """Sample as the protocol says, and where that guides without guidance too: only that compares with everyone's.

    What an earlier attempt has made is taken from the workspace.  Processes share the work, and the first one has what
    comes of it: None in the others.  Raises UserError where a reference cannot be had.
    """
    making = _Making(config, space, made_from, precision, world)
    with Stopwatch(space.folder / _seconds_file(world)) as watch:
        parts = making.sample(watch.keep)
    seconds = cost.duration("sampling_seconds", watch.seconds)
    if parts is None:
        return Made((), seconds, ("the training ended well, and sampling gave values that are no numbers",), None)
    scores = making.judge(parts, space.samples)
    plain = _unguided(making)
    if not world.is_first:
        return None
    return Made(
        judged=(*scores.measurements, *plain.measurements),
        cost=seconds,
        notes=(*_sampling_notes(config, made_from.codec.device), *scores.notes, *plain.notes),
        samples=_picture(config, parts, space.picture),
        moments=write_moments(space.moments, [*scores.moments, *plain.moments]),
    )


@dataclass(frozen=True)
class _Making:
    """Which images are made and judged, where they are kept, and who shares the work."""

    config: RunConfig
    space: Workspace
    made_from: Sampled
    precision: str
    world: World

    def sample(self, on_part: Callable[[], None]) -> Parts | None:
        """All images; batches belong to the weights that made them, to what decodes them, and to the guidance."""
        words = [self.world.by_first(lambda: sha256_of(self.space.weights)[:12])]
        words += [(self.made_from.codec.weights_sha256 or "")[:12]]
        words += ["guided"] if guidance_used(self.config) != UNGUIDED else []
        folder = self.space.sample_parts / "-".join(filter(None, words))
        return sample_all(self.config, self.made_from, folder, self.precision, on_part, world=self.world)

    def judge(self, parts: Parts, kept: Path) -> Scores:
        """What samples score against the references of the task, and those that were asked for."""
        labels = label_of(self.config, np.arange(self.config.protocol.num_images))
        with self.world.first_ahead():
            if self.world.is_first:
                write_arrays(kept, {"arr_0": parts.whole().transpose(0, 2, 3, 1), "labels": labels})
        names = _references(self.config)
        if not names:
            return Scores([], ["not judged: name references (--references, or later `eval --run`)"])
        setting = setting_of(self.config.execution, self.made_from.codec.device, self.world)
        return score_run(kept, names, guidance_used(self.config), setting, self.space.features)


def _unguided(guided: _Making) -> Scores:
    """What the same network gives without guidance of any kind; nothing where there is none."""
    config = guided.config
    if guidance_used(config) == UNGUIDED:
        return Scores([], [])
    protocol = config.protocol.model_copy(update={"guidance": Guidance()})
    registers = config.registers.model_copy(update={"guidance": None})
    plain = replace(guided, config=config.model_copy(update={"protocol": protocol, "registers": registers}))
    parts = plain.sample(lambda: None)
    if parts is None:
        return Scores([], ["sampling without guidance gave values that are no numbers"])
    return replace(plain.judge(parts, guided.space.unguided_samples), notes=[])


def _seconds_file(world: World) -> str:
    """Each process counts its own; the first one's are the record's, as all begin and end together."""
    return "sampling-seconds" if world.is_first else f"sampling-seconds-{world.rank}"


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


def _picture(config: RunConfig, parts: Parts, path: Path) -> SampleGrid:
    """A row for each class, or for the first ten; its images in the order they were made, none picked."""
    classes = config.task.num_classes
    rows, columns = min(classes, GRID_ROWS), min(config.protocol.num_images // classes, GRID_COLUMNS)
    indices = np.arange(rows)[:, None] + classes * np.arange(columns)
    encoded = BytesIO()
    grid(parts.of(indices.ravel()), columns).save(encoded, "PNG")
    write_bytes(path, encoded.getvalue())
    return SampleGrid(
        file="to-be-named.png",
        sha256=hashlib.sha256(encoded.getvalue()).hexdigest(),
        rows=rows,
        columns=columns,
    )
