"""Probe a pipeline on some prompts, and say what was found as other probes do."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from harness.comparability import Basis
from harness.denoiser_probing import Shown
from harness.errors import UserError
from harness.frozen import Frozen, NonNegativeInt, PositiveInt
from harness.machine import memory_explained
from harness.metrics.geneval.prompt import Prompt
from harness.metrics.outliers import NormMaps, largest_norm
from harness.outlier_records import RULE, OutlierStatistics, Verdict, verdict_of
from harness.pipelines.identity import PipelineIdentity
from harness.pipelines.opening import OpenPipeline
from harness.pipelines.probing import SHOWN_IMAGES, Watch, WorstPlace
from harness.pipelines.sampling import FOR_MEMORY, made_by, seed_of
from harness.pipelines.structure import find_structure
from harness.progress import Progress
from harness.records import Measurement

Keep = Callable[[int, Image.Image], None]


class Probe(Frozen):
    """What was found: statistics by block and noise level over the first images of so many prompts.

    `beside` are the tokens that the transformer holds beside an image's patches: they are in no statistic.
    """

    images: PositiveInt
    blocks: PositiveInt
    beside: NonNegativeInt
    outliers: tuple[OutlierStatistics, ...]

    def measurements(self) -> list[Measurement]:
        """The worst block at the worst noise level, or nothing where there are no statistics."""
        times = ", ".join(f"{time:g}" for time in sorted({each.time for each in self.outliers}))
        basis = Basis(settings=f"{self.images} images at t = {times}, in sampling")
        return largest_norm(self.outliers, basis, "in sampling")

    def notes(self) -> list[str]:
        """What is to be known of the probe."""
        return [f"{self.blocks} blocks were probed in sampling; {self.beside} tokens beside the patches were left out"]


@dataclass(frozen=True)
class ProbedPipeline:
    """What was found in a pipeline's transformer, with what its figure shows."""

    identity: PipelineIdentity
    found: Probe
    shown: Shown | None

    @property
    def name(self) -> str:
        """The pipeline's name without what no file may be called."""
        return self.identity.name.replace("/", "-")

    @property
    def images(self) -> int:
        """How many were made."""
        return self.found.images

    @property
    def statistics(self) -> tuple[OutlierStatistics, ...]:
        """By noise level and block."""
        return self.found.outliers

    @property
    def verdict(self) -> Verdict:
        """The answer in words."""
        return verdict_of(self.statistics)

    @property
    def title(self) -> str:
        """`stable-diffusion-3 (SD3Transformer2DModel), 28 steps, guidance 7, 1024 x 1024`."""
        told = self.identity
        guidance = "" if told.guidance_scale is None else f", guidance {told.guidance_scale:g}"
        return f"{told.name} ({told.transformer_class}), {told.steps} steps{guidance}, {told.width} x {told.height}"

    def text(self) -> str:
        """All numbers as JSON, with the verdict and its rule."""
        told = {
            "name": self.identity.name,
            "pipeline": self.identity.model_dump(mode="json"),
            "images": self.images,
            "tokens_beside_the_patches": self.found.beside,
            "verdict": self.verdict,
            "rule": RULE,
            "outliers": [each.model_dump(mode="json", exclude_none=True) for each in self.statistics],
        }
        return json.dumps(told, indent=1) + "\n"


def ignore(_: int, __: Image.Image) -> None:
    """Nobody keeps the images."""


def probe(
    pipeline: OpenPipeline, prompts: Sequence[Prompt], seed: int, levels: Sequence[float], keep: Keep = ignore
) -> ProbedPipeline:
    """Make the first image of each prompt, alone, look into the transformer meanwhile, and `keep` (number, image).

    Raises UserError where its blocks, its patches or its noise levels cannot be found.
    """
    with memory_explained("probing", FOR_MEMORY):
        structure = find_structure(pipeline)
    watch = Watch(pipeline, structure, levels)
    pictures = []
    with Progress("probing", len(prompts)) as progress:
        for number, prompt in enumerate(prompts):
            with watch.image():
                picture = made_by(pipeline, prompt.prompt, [seed_of(seed, number, 0)])[0]
            keep(number, picture)
            pictures.extend([picture] * (number < SHOWN_IMAGES))
            progress.advance(1)
    found = Probe(
        images=len(prompts), blocks=len(structure.blocks), beside=structure.beside, outliers=watch.statistics()
    )
    worst = watch.worst()
    return ProbedPipeline(pipeline.identity, found, None if worst is None else _shown(worst, pictures))


def require_square(pipeline: OpenPipeline) -> None:
    """Raise UserError where images are not square: their patches are drawn in a square."""
    if pipeline.identity.height != pipeline.identity.width:
        raise UserError("norms are drawn for square images alone", "leave --figure out, or ask for square images")


def _shown(worst: WorstPlace, pictures: Sequence[Image.Image]) -> Shown:
    pixels_NCHW = np.stack([np.asarray(picture, np.uint8).transpose(2, 0, 1) for picture in pictures])
    maps = NormMaps(np.arange(len(pictures)), worst.patches, worst.patches[:, :0])
    return Shown(pixels_NCHW, maps, worst.statistics)
