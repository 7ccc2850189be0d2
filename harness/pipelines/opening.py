"""Open a pretrained pipeline, and ask it for images."""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from harness.errors import UserError, first_few
from harness.machine import memory_explained
from harness.pipelines.folder import PipelineFolder
from harness.pipelines.identity import PipelineIdentity
from harness.pipelines.settings import PipelineSettings

TYPES = {"float32": torch.float32, "bf16": torch.bfloat16}

# What pipelines have names of their own for, and what asks for the same images in whichever surroundings: no other
# size than was asked for, and no cleaning of captions that needs packages which may not be here.
_STEPS, _GUIDANCE = "num_inference_steps", "guidance_scale"
_FIXED = {"use_resolution_binning": False, "clean_caption": False}
_LONGEST_REASON = 200
_NEEDED = ("prompt", "height", "width", "generator", _STEPS)


@dataclass(frozen=True)
class OpenPipeline:
    """A pipeline in memory, with everything decided that its images depend on."""

    identity: PipelineIdentity
    diffusers: Any
    transformer: torch.nn.Module
    device: torch.device

    def images(self, prompt: str, seeds: Sequence[int], **changes: Any) -> list[Image.Image]:
        """One image of a prompt for each seed, in one batch; `changes` are of the pipeline's own arguments."""
        told = {
            "prompt": [prompt] * len(seeds),
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "height": self.identity.height,
            "width": self.identity.width,
            _STEPS: self.identity.steps,
            **({} if self.identity.guidance_scale is None else {_GUIDANCE: self.identity.guidance_scale}),
            **{name: value for name, value in _FIXED.items() if name in _arguments(type(self.diffusers))},
            **changes,
        }
        made: list[Image.Image] = self.diffusers(**told).images
        return [image.convert("RGB") for image in made]


def resolved(folder: PipelineFolder, settings: PipelineSettings) -> PipelineSettings:
    """The settings with the pipeline's own steps and guidance where nothing was said.

    Raises UserError where it makes no images from prompts, or knows no guidance that was asked for.
    """
    import diffusers

    arguments = _arguments(getattr(diffusers, folder.pipeline_class))
    lacking = [name for name in _NEEDED if name not in arguments]
    if lacking:
        raise UserError(
            f"{folder.name} ({folder.pipeline_class}) does not make images of a size from prompts: "
            f"it takes no {', '.join(lacking)}",
            "give a text-to-image pipeline",
        )
    if settings.guidance_scale is not None and _GUIDANCE not in arguments:
        raise UserError(f"{folder.pipeline_class} takes no {_GUIDANCE}", f"leave pipeline.{_GUIDANCE} out")
    own = {"steps": arguments[_STEPS].default}
    if _GUIDANCE in arguments:
        own[_GUIDANCE] = arguments[_GUIDANCE].default
    unsaid = {name: value for name, value in own.items() if getattr(settings, name) is None}
    return PipelineSettings.model_validate(settings.model_dump() | unsaid)


def open_pipeline(
    folder: PipelineFolder, settings: PipelineSettings, weights_sha256: str, device: torch.device
) -> OpenPipeline:
    """The pipeline of a folder whose weights are there, on a device.  `settings` are resolved, precision included.

    Raises UserError where a file is missing or damaged, a package is missing, or the size cannot be made out.
    """
    assert settings.steps is not None, "settings are resolved before a pipeline is opened"
    import diffusers

    kinds: Any = diffusers.DiffusionPipeline
    try:
        with _quiet():
            pipeline = kinds.from_pretrained(
                folder.path,
                torch_dtype=TYPES[settings.precision],
                local_files_only=True,
                trust_remote_code=False,
                **dict.fromkeys(folder.absent),
            )
    except _reasons() as error:
        raise UserError(
            f"{folder.path} cannot be opened as {folder.pipeline_class}: {first_line(error)}",
            "put what is missing into that folder, or fetch it anew",
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    with memory_explained("opening the pipeline", "use --device cpu, or --set pipeline.precision=bf16"):
        pipeline.to(device)
    transformer = pipeline.transformer.requires_grad_(requires_grad=False).eval()
    height, width = _size(folder, settings, pipeline)
    identity = PipelineIdentity(
        name=folder.name,
        pipeline_class=type(pipeline).__name__,
        transformer_class=type(transformer).__name__,
        weights_sha256=weights_sha256,
        parameters=sum(parameter.numel() for parameter in transformer.parameters()),
        scheduler=type(pipeline.scheduler).__name__,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        height=height,
        width=width,
        images_per_prompt=settings.images_per_prompt,
    )
    return OpenPipeline(identity, pipeline, transformer, device)


def first_line(error: Exception) -> str:
    """What an error of a library says, after its kind: some say nothing else."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:_LONGEST_REASON]


def _arguments(pipeline_class: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(pipeline_class.__call__).parameters)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' own bars and advice."""
    import diffusers
    import transformers

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Its new name for torch_dtype is one that older versions do not know.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()


def _reasons() -> tuple[type[Exception], ...]:
    """What opening fails with where a folder is at fault."""
    from safetensors import SafetensorError

    return (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError, SafetensorError)


def _size(folder: PipelineFolder, settings: PipelineSettings, pipeline: Any) -> tuple[int, int]:
    """The height and the width that were asked for, or the pipeline's own."""
    sample = getattr(pipeline, "default_sample_size", None) or pipeline.transformer.config.get("sample_size")
    scale = getattr(pipeline, "vae_scale_factor", None)
    sides = sample if isinstance(sample, list | tuple) else (sample, sample)
    own = tuple(int(side) * int(scale) for side in sides) if sample and scale else (None, None)
    height, width = settings.height or own[0], settings.width or own[1]
    if height is None or width is None:
        found = first_few([name for name in pipeline.config if not name.startswith("_")], 6)
        raise UserError(
            f"{folder.name} does not say the size of its images: default_sample_size, the transformer's sample_size "
            f"and vae_scale_factor were looked for, in {found}",
            "say it: --set pipeline.height=1024 --set pipeline.width=1024",
        )
    return height, width
