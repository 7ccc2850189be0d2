"""RAE-DiT: LightningDiT over representation latents (Zheng et al., arXiv 2510.11690; DSR, arXiv 2605.05206)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from baselines._rae_sizes import LATENTS, SAMPLER, guidance, lightning_recipe, lightning_sizes, objective
from harness.backbone import Backbone

if TYPE_CHECKING:
    from harness.denoiser import Denoiser


def _build(network: Mapping[str, Any]) -> "Denoiser":
    from baselines._rae import build_lightning

    return build_lightning(network)


BACKBONE = Backbone(
    name="rae-dit",
    title="RAE-DiT",
    source="arXiv 2510.11690, 2605.05206; LightningDiT of bytetriper/RAE at a4d18c4 and a-little-hoof/DSR at d9ceec1",
    sizes=lightning_sizes(),
    objective=objective,
    headline=lambda _: "xl",
    recipe=lightning_recipe,
    sampler=SAMPLER,
    guidance=guidance,
    uint8_rule="truncate-255",
    build=_build,
    latents=LATENTS,
)
