"""What a user may say of sampling a pretrained pipeline: frozen data, without torch."""

from typing import Annotated, Literal

from pydantic import Field

from harness.frozen import Fraction, Frozen, NonNegativeFloat, PositiveInt

PREFIX = "diffusers:"
SECTION = "pipeline"


class PipelineSettings(Frozen):
    """How a pipeline is sampled and probed; None is what the pipeline itself does.

    `probed_prompts` are the first of the prompts, whose first images are probed in sampling, each at the steps nearest
    to the `noise_levels` (t = 0 noise, 1 data); without `probe` none is.
    """

    images_per_prompt: Annotated[int, Field(ge=1, le=9999)] = 4
    steps: PositiveInt | None = None
    guidance_scale: NonNegativeFloat | None = None
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    precision: Literal["auto", "float32", "bf16"] = "auto"
    probe: bool = True
    probed_prompts: PositiveInt = 16
    noise_levels: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.1, 0.3, 0.5, 0.7, 0.9)
