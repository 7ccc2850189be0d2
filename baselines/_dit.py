"""The network of DiT and SiT, equal to the official ones key by key."""

# N batch, L tokens, D width, C channels

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from baselines._dit_sizes import DitNetwork, SitNetwork
from baselines._layers import (
    Attention,
    Block,
    ClassConditional,
    FinalLayer,
    GeluMlp,
    LabelEmbedding,
    Modulation,
    PatchEmbedding,
    TimestepEmbedding,
    fixed_positions,
    layer_norm,
    unpatchify,
)
from harness.denoiser import Denoiser, Trunk


class DitBlock(Block):
    """Layer norms without a gain, a GELU MLP."""

    def __init__(self, network: DitNetwork) -> None:
        super().__init__()
        width = network.width
        self.norm1, self.norm2 = layer_norm(width), layer_norm(width)
        self.attn = Attention(width, network.num_heads)
        self.mlp = GeluMlp(width, int(width * network.mlp_ratio))
        self.adaLN_modulation = Modulation(width, 6)


class DiffusionTransformer(ClassConditional):
    """DiT (arXiv 2212.09748): adaLN-Zero blocks over patches, conditioned on time plus class.

    forward: x (N, C, H, H), t (N,) as the family counts it, y (N,) integer labels to (N, predicted_channels, H, H).
    The order in which the parts are made is the order of the official state dict.
    """

    def __init__(self, network: DitNetwork) -> None:
        super().__init__()
        side = network.input_size // network.patch_size
        self.network = network
        self.trunks = (Trunk(0, network.depth, network.width),)
        self.patch_tokens = network.patch_tokens
        self.null_label = network.num_classes if network.null_class else None
        self.output_channels = 2 * network.in_channels if network.learn_sigma else network.in_channels
        self.pos_embed = fixed_positions(side, side, network.width)
        self.x_embedder = PatchEmbedding(network.in_channels, network.width, network.patch_size)
        self.t_embedder = TimestepEmbedding(network.width)
        self.y_embedder = LabelEmbedding(network.num_classes, network.width, null_class=network.null_class)
        self.rotary = nn.Identity()
        self.blocks = nn.ModuleList(DitBlock(network) for _ in range(network.depth))
        self.final_layer = FinalLayer(network.width, network.patch_size**2 * self.output_channels, layer_norm)

    def embed(self, x_NCHW: Tensor, t_N: Tensor, label_ND: Tensor) -> tuple[Tensor, Tensor]:
        return self.x_embedder(x_NCHW) + self.pos_embed, self.t_embedder(t_N) + label_ND

    def step(self, index: int, tokens_NLD: Tensor, condition: Tensor) -> Tensor:
        out_NLD: Tensor = self.blocks[index](tokens_NLD, condition, self.rotary)
        return out_NLD

    def decode(self, tokens_NLD: Tensor, condition: Tensor) -> Tensor:
        patches = self.final_layer(tokens_NLD, condition)
        image_NCHW = unpatchify(patches, self.network.patch_size, self.output_channels)
        return image_NCHW[:, : self.network.predicted_channels]


def build_dit(network: Mapping[str, Any]) -> Denoiser:
    """DiT from the dimensions that a RunConfig holds."""
    return DiffusionTransformer(DitNetwork(**network))


def build_sit(network: Mapping[str, Any]) -> Denoiser:
    """SiT from the dimensions that a RunConfig holds."""
    return DiffusionTransformer(SitNetwork(**network))
