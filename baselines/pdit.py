"""pDiT: JiT without its in-context class tokens, the plain pixel transformer of arXiv 2605.16147."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from baselines._jit_sizes import SAMPLER, guidance, headline, objective, published_sizes, recipe
from harness.backbone import Backbone
from harness.spec import PixelLatents

if TYPE_CHECKING:
    from harness.denoiser import Denoiser


def _build(network: Mapping[str, Any]) -> "Denoiser":
    from baselines._jit import build_jit

    return build_jit(network)


BACKBONE = Backbone(
    name="pdit",
    title="pDiT (JiT without in-context tokens)",
    source="arXiv 2605.16147; LTH14/JiT at cbc743a with in_context_len 0",
    sizes=published_sizes(in_context_len=0),
    objective=objective,
    headline=headline,
    recipe=recipe,
    sampler=SAMPLER,
    guidance=guidance,
    uint8_rule="round",
    build=_build,
    latents=PixelLatents(),
)
