"""Make a pipeline's images of prompts, each once."""

from collections.abc import Sequence

import torch
from PIL import Image

from harness.errors import UserError
from harness.geneval_folder import ImageFolder
from harness.machine import memory_explained
from harness.metrics.geneval.prompt import Prompt
from harness.pipelines.opening import OpenPipeline, first_line
from harness.progress import Progress
from harness.randomness import Stream, generator

# No set has as many images of a prompt; the number of a prompt is above it, that of its image below.
MOST_IMAGES = 2**20
FOR_MEMORY = (
    "use --device cpu, a smaller size (--set pipeline.height=512 --set pipeline.width=512), or fewer images of a "
    "prompt, which are made together (--set pipeline.images_per_prompt=1)"
)


def seed_of(seed: int, prompt: int, image: int) -> int:
    """The seed of one image, which depends on these three alone."""
    assert image < MOST_IMAGES, "more images of a prompt than have seeds"
    return int(generator(seed, Stream.SAMPLING, prompt * MOST_IMAGES + image).integers(2**63))


def sample(pipeline: OpenPipeline, prompts: Sequence[Prompt], seed: int, folder: ImageFolder) -> None:
    """Make the images that are not there yet: one at a time on the CPU, all of a prompt together on a GPU.

    Where one of a prompt is missing on a GPU all are made, so that each has the same batch as ever, and only those are
    written that are missing.  Raises UserError where the GPU's memory is too small, or the disk is full.
    """
    count = pipeline.identity.images_per_prompt
    at_once = 1 if pipeline.device.type == "cpu" else count
    missing = folder.missing(len(prompts), count)
    wanted = sum(map(len, missing.values()))
    with Progress("sampling", len(prompts) * count, len(prompts) * count - wanted) as progress:
        for number, images in missing.items():
            for batch in _batches(images, count, at_once):
                seeds = [seed_of(seed, number, image) for image in batch]
                made = made_by(pipeline, prompts[number].prompt, seeds)
                for image, picture in zip(batch, made, strict=True):
                    folder.keep(number, image, picture)
                progress.advance(len(set(batch) & set(images)), prompts[number].prompt)


def made_by(pipeline: OpenPipeline, prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
    """The images of a prompt by their seeds, together.

    Raises UserError where the GPU's memory is too small, the pipeline refuses what it is asked for, or makes another
    size, as those do that round sizes to what their networks take.
    """
    with memory_explained("sampling", FOR_MEMORY):
        made = _made(pipeline, prompt, seeds)
    asked = (pipeline.identity.width, pipeline.identity.height)
    if others := [picture.size for picture in made if picture.size != asked]:
        W, H = others[0]
        raise UserError(
            f"{pipeline.identity.name} was asked for {asked[0]} x {asked[1]} images, and makes {W} x {H}",
            f"ask for what it makes: --set pipeline.height={H} --set pipeline.width={W}",
        )
    return made


def _made(pipeline: OpenPipeline, prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
    told = pipeline.identity
    try:
        return pipeline.images(prompt, seeds)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{told.name} refuses to make {told.width} x {told.height} images of {prompt!r}: {first_line(error)}",
            "change what it is asked for: --set pipeline.height=..., --set pipeline.steps=...",
        ) from error


def _batches(missing: Sequence[int], count: int, at_once: int) -> list[list[int]]:
    if at_once == 1:
        return [[image] for image in missing]
    return [list(range(count))] if missing else []
