"""SiT: Scalable Interpolant Transformers (Ma et al., arXiv 2401.08740)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from baselines._dit_sizes import OFFICIAL_RECIPE, SitNetwork, published_sizes
from harness.backbone import Backbone
from harness.spec import FlowObjective, OdeSampler

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
    objective=FlowObjective(kind="flow"),
    recipe=OFFICIAL_RECIPE,
    sampler=OdeSampler(kind="ode"),
    build=_build,
    latents="a convolutional VAE or pixels",
)
