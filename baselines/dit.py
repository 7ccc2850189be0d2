"""DiT: Scalable Diffusion Models with Transformers (Peebles and Xie, arXiv 2212.09748)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from baselines._dit_sizes import OFFICIAL_RECIPE, DitNetwork, published_sizes
from harness.backbone import Backbone
from harness.spec import DdpmObjective, DdpmSampler

if TYPE_CHECKING:
    from harness.denoiser import Denoiser


def _build(network: Mapping[str, Any]) -> "Denoiser":
    from baselines._dit import build_dit

    return build_dit(network)


BACKBONE = Backbone(
    name="dit",
    title="DiT",
    source="arXiv 2212.09748, facebookresearch/DiT at ed81ce2",
    sizes=published_sizes(DitNetwork),
    objective=DdpmObjective(kind="ddpm"),
    recipe=OFFICIAL_RECIPE,
    sampler=DdpmSampler(kind="ddpm"),
    build=_build,
    latents="a convolutional VAE or pixels",
)
