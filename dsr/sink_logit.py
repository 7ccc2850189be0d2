"""A sink logit per head: attention that may say nothing (gpt-oss), or softmax off by one.

out = sum e^l v / (e^s + sum e^l), with s learned, or s = 0.  The sink's value is zero, unlike a key/value bias's.
"""

# N batch, L tokens, H heads, d width of a head

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.attention import MixesTokens, Mixing


class SoftmaxOne(Mixing):
    """softmax with one more key of logit 0 and value 0, in front of no maximum that could be subtracted wrongly."""

    def forward(self, q_NHLd: Tensor, k_NHLd: Tensor, v_NHLd: Tensor, tokens_NLD: Tensor) -> Tensor:  # noqa: ARG002
        k, v = (functional.pad(heads, (0, 0, 0, 1)) for heads in (k_NHLd, v_NHLd))
        return functional.scaled_dot_product_attention(q_NHLd, k, v)


class SinkLogit(Mixing):
    """The same with a learned logit for each head, which starts at 0."""

    def __init__(self, attention: MixesTokens) -> None:
        super().__init__()
        self.sink = nn.Parameter(torch.zeros(attention.num_heads))

    def forward(self, q_NHLd: Tensor, k_NHLd: Tensor, v_NHLd: Tensor, tokens_NLD: Tensor) -> Tensor:  # noqa: ARG002
        k, v = (functional.pad(heads, (0, 0, 0, 1)) for heads in (k_NHLd, v_NHLd))
        to_tokens = self.sink.new_zeros(len(self.sink), k_NHLd.shape[2])
        bias_1H1L = torch.cat([to_tokens, self.sink[:, None]], dim=1)[None, :, None, :].to(q_NHLd.dtype)
        bias = bias_1H1L.expand(-1, -1, q_NHLd.shape[2], -1)
        return functional.scaled_dot_product_attention(q_NHLd, k, v, attn_mask=bias)
