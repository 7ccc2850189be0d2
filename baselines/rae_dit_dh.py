"""RAE-DiT-DH: a trunk and a wide head over representation latents (Zheng et al., arXiv 2510.11690)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from baselines._rae_sizes import LATENTS, SAMPLER, dh_recipe, dh_sizes, guidance, objective
from harness.backbone import Backbone

if TYPE_CHECKING:
    from harness.denoiser import Denoiser


def _build(network: Mapping[str, Any]) -> "Denoiser":
    from baselines._rae import build_headed

    return build_headed(network)


BACKBONE = Backbone(
    name="rae-dit-dh",
    title="RAE-DiT-DH",
    source="arXiv 2510.11690, 2605.05206; DiTwDDTHead of bytetriper/RAE at a4d18c4 and a-little-hoof/DSR at d9ceec1",
    sizes=dh_sizes(),
    objective=objective,
    headline=lambda _: "xl",
    recipe=dh_recipe,
    sampler=SAMPLER,
    guidance=guidance,
    uint8_rule="truncate-255",
    build=_build,
    latents=LATENTS,
)
