"""A run's images: made as its protocol says, kept, and judged."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harness.attachments import Attachment
from harness.comparability import UNGUIDED, guidance_used
from harness.data import spread_evenly
from harness.digits_judge import REFERENCE as DIGITS
from harness.distributed import ALONE, World
from harness.files import sha256_of, write_arrays, write_bytes
from harness.geneval_folder import ImageFolder, describe
from harness.images import grid
from harness.judging import Scores, find_judges, score_run, setting_of
from harness.metrics import cost
from harness.metrics.geneval.verdict_files import write_verdicts
from harness.moment_files import write_moments
from harness.objective import is_adaptive
from harness.records import Measurement, SampleGrid
from harness.sample import Parts, Sampled, label_of, sample_all
from harness.shapes_judge import judge_shapes
from harness.source import Indices
from harness.spec import Guidance, RunConfig
from harness.stopwatch import Stopwatch
from harness.texts import prompts_of
from harness.workspace import Workspace

GRID_ROWS, GRID_COLUMNS = 10, 10


@dataclass(frozen=True)
class Made:
    """What a run's images gave; `cost` is the time of making them, `samples` None where they are no numbers.

    `moments` are None where no distance was measured, `verdicts` where images have no prompts.
    """

    judged: tuple[Measurement, ...]
    cost: Measurement
    notes: tuple[str, ...]
    samples: SampleGrid | None
    moments: Attachment | None = None
    verdicts: Attachment | None = None


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
        verdicts=write_verdicts(space.verdicts, scores.verdicts) if scores.verdicts else None,
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
                named = "prompts" if self.config.task.prompts else "labels"
                write_arrays(kept, {"arr_0": parts.whole().transpose(0, 2, 3, 1), named: labels})
        shown = self._judge_prompts(parts)
        names = _references(self.config)
        if not names:
            return replace(shown, notes=[] if shown.verdicts else [self._lay_out(parts)])
        setting = setting_of(self.config.execution, self.made_from.codec.device, self.world)
        scores = score_run(kept, names, guidance_used(self.config), setting, self.space.features)
        return replace(scores, measurements=[*shown.measurements, *scores.measurements], verdicts=shown.verdicts)

    def _lay_out(self, parts: Parts) -> str:
        """Write images of GenEval's prompts out as its tool wants them; what is to be done to have any judged."""
        if self.config.task.prompts != "geneval":
            return "not judged: name references (--references, or later `eval --run`)"
        prompts, folder = prompts_of(self.config.task), ImageFolder(self.space.images)
        if self.world.is_first:
            describe(prompts, folder)
            for index, image_CHW in enumerate(parts.whole()):
                number, count = divmod(index, self.config.protocol.num_images // len(prompts))
                folder.keep(number, count, Image.fromarray(image_CHW.transpose(1, 2, 0)))
        return f"not judged: `eval geneval --images {self.space.images}` does so by GenEval's rules"

    def _judge_prompts(self, parts: Parts) -> Scores:
        """Whether images show what their prompts say, where the task has a detector; nothing in other processes."""
        config = self.config
        if config.task.metric != "geneval_shapes" or not self.world.is_first:
            return Scores([], [])
        judged = judge_shapes(prompts_of(config.task), parts.whole().transpose(0, 2, 3, 1), guidance_used(config))
        return Scores(judged.measurements, [], verdicts=judged.verdicts)


def _unguided(guided: _Making) -> Scores:
    """What the same network gives without guidance of any kind; nothing where there is none, or where it follows
    prompts, which nobody's images do without guidance.
    """
    config = guided.config
    if guidance_used(config) == UNGUIDED or config.task.prompts:
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
    """A row for each class or prompt, or for ten; its images in the order they were made, none picked."""
    indices = _shown(config)
    encoded = BytesIO()
    grid(parts.of(indices.ravel()), indices.shape[1]).save(encoded, "PNG")
    write_bytes(path, encoded.getvalue())
    return SampleGrid(
        file="to-be-named.png",
        sha256=hashlib.sha256(encoded.getvalue()).hexdigest(),
        rows=indices.shape[0],
        columns=indices.shape[1],
    )


def _shown(config: RunConfig) -> Indices:
    """The images of the picture, a row for each of the first classes, or of prompts spread over all."""
    prompts, count = len(prompts_of(config.task)), config.protocol.num_images
    if prompts:
        each = count // prompts
        return spread_evenly(GRID_ROWS, prompts)[:, None] * each + np.arange(min(each, GRID_COLUMNS))
    classes = config.task.num_classes
    return np.arange(min(classes, GRID_ROWS))[:, None] + classes * np.arange(min(count // classes, GRID_COLUMNS))
