"""SiT: Scalable Interpolant Transformers (Ma et al., arXiv 2401.08740)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from baselines._dit_sizes import LATENTS, SitNetwork, official_recipe, published_sizes
from harness.backbone import Backbone
from harness.spec import FlowObjective, Guidance, OdeSampler

if TYPE_CHECKING:
    from harness.denoiser import Denoiser


def _build(network: Mapping[str, Any]) -> "Denoiser":
    from baselines._dit import build_sit

    return build_sit(network)


BACKBONE = Backbone(
    name="sit",
    title="SiT",
    source="arXiv 2401.08740, willisma/SiT at 947f95b",
    sizes=published_sizes(SitNetwork),
    objective=lambda _: FlowObjective(kind="flow"),
    headline=lambda _: "xl-2",
    recipe=official_recipe,
    sampler=OdeSampler(kind="ode"),
    guidance=lambda _: Guidance(),
    uint8_rule="truncate-128",
    build=_build,
    latents=LATENTS,
)
