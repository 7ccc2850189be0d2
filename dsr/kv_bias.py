"""A learned key and value per head: a place to look that is no token (massive activations, arXiv 2402.17762).

locuslab/massive-activations has it as an attention bias; DSR's LightningDiT as the unused option `attn_with_bias`.
"""

# N batch, L tokens, H heads, d width of a head

import torch
from torch import Tensor, nn

from harness.attention import MixesTokens, SoftmaxMixing

INIT_STD = 0.02


class KvBias(SoftmaxMixing):
    """softmax over the tokens' keys and one learned key, whose value is learned too.  Neither normed nor rotated."""

    def __init__(self, attention: MixesTokens) -> None:
        super().__init__()
        shape = (1, attention.num_heads, 1, attention.head_width)
        self.k_bias = nn.Parameter(torch.randn(shape) * INIT_STD)
        self.v_bias = nn.Parameter(torch.randn(shape) * INIT_STD)

    def forward(self, q_NHLd: Tensor, k_NHLd: Tensor, v_NHLd: Tensor, tokens_NLD: Tensor) -> Tensor:
        k = torch.cat([k_NHLd, self.k_bias.to(k_NHLd.dtype).expand(len(k_NHLd), -1, -1, -1)], dim=2)
        v = torch.cat([v_NHLd, self.v_bias.to(v_NHLd.dtype).expand(len(v_NHLd), -1, -1, -1)], dim=2)
        return super().forward(q_NHLd, k, v, tokens_NLD)
