"""Open what stands between a run's images and its denoiser, and say what its record tells of that."""

import torch

from harness.codec import Codec
from harness.latents import plain_codec
from harness.spec import RaeLatents, RunConfig, StandInLatents, VaeLatents


def open_codec(config: RunConfig, device: torch.device) -> tuple[Codec, list[str]]:
    """The codec of a run, and what its record says of it.

    Raises UserError where weights cannot be had, or do not fit.
    """
    latents = config.latents
    if isinstance(latents, RaeLatents):
        # timm takes a second or two to import, and only an encoder needs it.
        from harness.representation import open_representation

        representation = open_representation(config, device)
        return representation.codec, representation.notes()
    if config.execution.vae is not None:
        assert isinstance(latents, VaeLatents), "a place for a VAE that the run has not"
        latents = latents.model_copy(update={"weights": config.execution.vae})
    codec = plain_codec(latents, config.task, device)
    match config.latents:
        case StandInLatents():
            return codec, ["latents: a stand-in (patches under a fixed rotation), no representation encoder's"]
        case VaeLatents(weights=name, scale=scale):
            return codec, [f"latents: {name}, SHA-256 {codec.weights_sha256}, times {scale}"]
    return codec, []
