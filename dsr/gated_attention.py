"""A sigmoid gate on what attention puts out (Gated Attention, arXiv 2505.06708)."""

# N batch, L tokens, D width, H heads, d width of a head

from torch import Tensor, nn

from harness.attention import MixesTokens, SoftmaxMixing


class GatedMixing(SoftmaxMixing):
    """softmax attention times sigmoid(linear(tokens)): one gate for each head, or one for each of its channels.

    The gate is computed from the normalised, modulated tokens, as the queries are.
    """

    def __init__(self, attention: MixesTokens, *, elementwise: bool) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.gate = nn.Linear(attention.width, attention.width if elementwise else attention.num_heads)
        nn.init.xavier_uniform_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, q_NHLd: Tensor, k_NHLd: Tensor, v_NHLd: Tensor, tokens_NLD: Tensor) -> Tensor:
        mixed = super().forward(q_NHLd, k_NHLd, v_NHLd, tokens_NLD)
        N, L, _ = tokens_NLD.shape
        gates_NLHd: Tensor = self.gate(tokens_NLD).sigmoid().view(N, L, self.num_heads, -1)
        return mixed * gates_NLHd.transpose(1, 2)
