"""Which pretrained pipeline made images, and how it was asked to: frozen data, without torch."""

from harness.frozen import Frozen, NonNegativeFloat, PositiveInt


class PipelineIdentity(Frozen):
    """A pipeline of diffusers, and the settings that decide its images.

    `weights_sha256` is over the digests of all its files of weights, text encoders and decoder included; `parameters`
    are the transformer's.  `guidance_scale` is None where the pipeline knows none.
    """

    name: str
    pipeline_class: str
    transformer_class: str
    weights_sha256: str
    parameters: PositiveInt
    scheduler: str
    steps: PositiveInt
    guidance_scale: NonNegativeFloat | None
    height: PositiveInt
    width: PositiveInt
    images_per_prompt: PositiveInt
