"""The network of JiT, equal to the official one key by key."""

# N batch, L tokens, T patch tokens, K in-context tokens, D width, C channels

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from baselines._jit_sizes import JitNetwork
from baselines._layers import (
    Attention,
    AttentionDesign,
    Block,
    BottleneckPatchEmbedding,
    ClassConditional,
    FinalLayer,
    LabelEmbedding,
    Modulation,
    Rotary,
    SwiGlu,
    TimestepEmbedding,
    fixed_positions,
    rms_norm,
    unpatchify,
)
from harness.denoiser import Denoiser, Trunk


class JitBlock(Block):
    """RMS norms, also of queries and keys, float32 logits, SwiGLU; dropout in the middle half of the blocks."""

    def __init__(self, network: JitNetwork, index: int) -> None:
        super().__init__()
        width, quarter = network.width, network.depth // 4
        dropout = network.dropout if quarter <= index < 3 * quarter else 0.0
        self.norm1 = rms_norm(width)
        design = AttentionDesign(rms_norm, norms_first=True, float32_logits=True, dropout=dropout)
        self.attn = Attention(width, network.num_heads, design)
        self.norm2 = rms_norm(width)
        self.mlp = SwiGlu(width, int(width * network.mlp_ratio), dropout)
        self.adaLN_modulation = Modulation(width, 6)


class JustImageTransformer(ClassConditional):
    """JiT (arXiv 2511.13720): from noisy pixels to the clean image, with class tokens in context from a block on.

    forward: x (N, C, H, H), t (N,) in [0, 1], y (N,) integer labels to the clean image (N, C, H, H).  The in-context
    tokens stand right behind the patches, before whatever else rides there; the official code has them in front, which
    attention without positions cannot tell apart.
    """

    def __init__(self, network: JitNetwork) -> None:
        super().__init__()
        side = network.input_size // network.patch_size
        self.network = network
        self.trunks = (Trunk(0, network.depth, network.width),)
        self.patch_tokens = network.patch_tokens
        self.null_label = network.num_classes
        self.pos_embed = fixed_positions(side, side, network.width)
        if network.in_context_len:
            self.in_context_posemb = nn.Parameter(torch.randn(1, network.in_context_len, network.width) * 0.02)
        self.t_embedder = TimestepEmbedding(network.width)
        self.y_embedder = LabelEmbedding(network.num_classes, network.width, null_class=True)
        self.x_embedder = BottleneckPatchEmbedding(
            network.in_channels, network.bottleneck, network.width, network.patch_size
        )
        self.rotary = Rotary(side, network.width // network.num_heads, persistent=False)
        self.blocks = nn.ModuleList(JitBlock(network, index) for index in range(network.depth))
        self.final_layer = FinalLayer(network.width, network.patch_size**2 * network.in_channels, rms_norm)

    def embed(self, x_NCHW: Tensor, t_N: Tensor, label_ND: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.x_embedder(x_NCHW) + self.pos_embed, (self.t_embedder(t_N) + label_ND, label_ND)

    def step(self, index: int, tokens_NLD: Tensor, condition: tuple[Tensor, Tensor]) -> Tensor:
        time_and_label_ND, label_ND = condition
        if index == self.network.in_context_start and self.network.in_context_len:
            context_NKD = label_ND[:, None, :] + self.in_context_posemb
            patches, behind = tokens_NLD[:, : self.patch_tokens], tokens_NLD[:, self.patch_tokens :]
            tokens_NLD = torch.cat([patches, context_NKD.to(patches.dtype), behind], dim=1)
        out_NLD: Tensor = self.blocks[index](tokens_NLD, time_and_label_ND, self.rotary)
        return out_NLD

    def decode(self, tokens_NLD: Tensor, condition: tuple[Tensor, Tensor]) -> Tensor:
        patches = self.final_layer(tokens_NLD[:, : self.patch_tokens], condition[0])
        return unpatchify(patches, self.network.patch_size, self.network.in_channels)


def build_jit(network: Mapping[str, Any]) -> Denoiser:
    """JiT from the dimensions that a RunConfig holds."""
    return JustImageTransformer(JitNetwork(**network))
