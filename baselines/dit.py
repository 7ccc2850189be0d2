"""DiT: Scalable Diffusion Models with Transformers (Peebles and Xie, arXiv 2212.09748)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from baselines._dit_sizes import LATENTS, DitNetwork, official_recipe, published_sizes
from harness.backbone import Backbone
from harness.spec import DdpmObjective, DdpmSampler, Guidance

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
    objective=lambda _: DdpmObjective(kind="ddpm"),
    headline=lambda _: "xl-2",
    recipe=official_recipe,
    sampler=DdpmSampler(kind="ddpm"),
    guidance=lambda _: Guidance(scale=1.5),
    uint8_rule="truncate-128",
    build=_build,
    latents=LATENTS,
)
