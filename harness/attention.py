"""The second seam: how queries, keys and values become outputs, whichever backbone asks."""

# N batch, L tokens, D width, H heads, d width of a head

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional


class Mixing(nn.Module, ABC):
    """What stands between the projections of an attention layer."""

    @abstractmethod
    def forward(self, q_NHLd: Tensor, k_NHLd: Tensor, v_NHLd: Tensor, tokens_NLD: Tensor) -> Tensor:
        """Outputs (N, H, L, d); `tokens_NLD` are the normalised, modulated tokens that q, k and v were made from."""


class SoftmaxMixing(Mixing):
    """softmax(q k / sqrt(d)) v: no parameter, no key."""

    def forward(self, q_NHLd: Tensor, k_NHLd: Tensor, v_NHLd: Tensor, tokens_NLD: Tensor) -> Tensor:  # noqa: ARG002
        return functional.scaled_dot_product_attention(q_NHLd, k_NHLd, v_NHLd)


class MixesTokens(nn.Module):
    """An attention layer whose `mixing` can be exchanged.  A backbone's attention derives from this."""

    mixing: Mixing

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.width, self.num_heads, self.head_width = width, num_heads, width // num_heads
        self.mixing = SoftmaxMixing()
