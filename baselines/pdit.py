"""pDiT: JiT without its in-context class tokens, the plain pixel transformer of arXiv 2605.16147."""

from dataclasses import replace

from baselines import jit
from baselines._jit_sizes import published_sizes

BACKBONE = replace(
    jit.BACKBONE,
    name="pdit",
    title="pDiT (JiT without in-context tokens)",
    source="arXiv 2605.16147; LTH14/JiT at cbc743a with in_context_len 0",
    sizes=published_sizes(in_context_len=0),
)
