"""The networks of RAE and DSR, LightningDiT and DiT-DH, equal to the official ones key by key."""

# N batch, L tokens, D width of the first trunk, E width of the head, C channels

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from baselines._layers import (
    Attention,
    AttentionDesign,
    Block,
    ClassConditional,
    FinalLayer,
    FourierTimeEmbedding,
    GeluMlp,
    LabelEmbedding,
    Modulation,
    PatchEmbedding,
    Rotary,
    SwiGlu,
    fixed_positions,
    layer_norm,
    restart_linears,
    rms_norm,
    unpatchify,
)
from baselines._rae_sizes import DhNetwork, LightningNetwork
from harness.denoiser import Denoiser, Trunk


class LightningBlock(Block):
    """RMS norms and SwiGLU, or layer norms and GELU."""

    def __init__(self, network: LightningNetwork, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(network)(width), _norm(network)(width)
        of_head = (rms_norm if network.rms_norm else nn.LayerNorm) if network.query_key_norm else nn.Identity
        self.attn = Attention(width, num_heads, AttentionDesign(of_head))
        self.mlp = (SwiGlu if network.swiglu else GeluMlp)(width, int(width * network.mlp_ratio))
        self.adaLN_modulation = Modulation(width, 6 if network.shift else 4)


class LightningTransformer(ClassConditional):
    """LightningDiT over representation latents (RAE, arXiv 2510.11690; DSR, arXiv 2605.05206).

    forward: x (N, C, G, G), t (N,) in [0, 1] with 1 for noise, y (N,) integer labels to (N, C, G, G).
    """

    def __init__(self, network: LightningNetwork) -> None:
        super().__init__()
        side, width = network.input_size // network.patch_size, network.width
        self.network = network
        self.trunks = (Trunk(0, network.depth, width),)
        self.patch_tokens = network.patch_tokens
        self.null_label = network.num_classes if network.null_class else None
        self.output_channels = (2 if network.learn_sigma else 1) * network.in_channels
        self.pos_embed = fixed_positions(side, side, width)
        self.x_embedder = PatchEmbedding(network.in_channels, width, network.patch_size)
        self.t_embedder = FourierTimeEmbedding(width)
        self.y_embedder = LabelEmbedding(network.num_classes, width, null_class=network.null_class)
        self.feat_rope = Rotary(side, width // network.num_heads, persistent=True) if network.rotary else nn.Identity()
        self.blocks = nn.ModuleList(LightningBlock(network, width, network.num_heads) for _ in range(network.depth))
        self.final_layer = FinalLayer(width, network.patch_size**2 * self.output_channels, _norm(network))

    def embed(self, x_NCHW: Tensor, t_N: Tensor, label_ND: Tensor) -> tuple[Tensor, Tensor]:
        return self.x_embedder(x_NCHW) + self.pos_embed, self.t_embedder(t_N) + label_ND

    def step(self, index: int, tokens_NLD: Tensor, condition: Tensor) -> Tensor:
        out_NLD: Tensor = self.blocks[index](tokens_NLD, condition, self.feat_rope)
        return out_NLD

    def decode(self, tokens_NLD: Tensor, condition: Tensor) -> Tensor:
        patches = self.final_layer(tokens_NLD, condition)
        return unpatchify(patches, self.network.patch_size, self.output_channels)[:, : self.network.in_channels]


class HeadedTransformer(ClassConditional):
    """DiT-DH: a trunk whose tokens condition, one by one, a wide and shallow head (RAE, arXiv 2510.11690).

    forward: x (N, C, G, G), t (N,) in [0, 1] with 1 for noise, y (N,) integer labels to (N, C, G, G).  The head sees
    the input again, through an embedding of its own; whatever rides behind the trunk's patches conditions what rides
    behind the head's, so both must carry equally many.
    """

    def __init__(self, network: DhNetwork) -> None:
        super().__init__()
        side, width, head_width = network.input_size, network.width, network.head_width
        self.network = network
        self.trunks = (Trunk(0, network.depth, width), Trunk(network.depth, network.head_depth, head_width))
        self.patch_tokens = network.patch_tokens
        self.null_label = network.num_classes if network.null_class else None
        self.pos_embed = fixed_positions(side, side, width)
        self.x_embedder = PatchEmbedding(network.in_channels, head_width, 1)
        self.s_embedder = PatchEmbedding(network.in_channels, width, 1)
        self.s_projector = nn.Linear(width, head_width) if width != head_width else nn.Identity()
        self.t_embedder = FourierTimeEmbedding(width)
        self.y_embedder = LabelEmbedding(network.num_classes, width, null_class=network.null_class)
        self.final_layer = FinalLayer(head_width, network.in_channels, _norm(network))
        self.enc_feat_rope = Rotary(side, width // network.num_heads, persistent=True)
        self.dec_feat_rope = Rotary(side, head_width // network.head_num_heads, persistent=True)
        self.blocks = nn.ModuleList(
            [LightningBlock(network, width, network.num_heads) for _ in range(network.depth)]
            + [LightningBlock(network, head_width, network.head_num_heads) for _ in range(network.head_depth)]
        )
        restart_linears(self)

    def embed(self, x_NCHW: Tensor, t_N: Tensor, label_ND: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        time_ND = self.t_embedder(t_N)
        trunk_NLD = self.s_embedder(x_NCHW) + self.pos_embed
        return trunk_NLD, (functional.silu(time_ND + label_ND), time_ND, self.x_embedder(x_NCHW))

    def step(self, index: int, tokens_NLD: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        rotary = self.enc_feat_rope if index < self.network.depth else self.dec_feat_rope
        out_NLD: Tensor = self.blocks[index](tokens_NLD, condition[0], rotary)
        return out_NLD

    def hand_over(self, tokens_NLD: Tensor, condition: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        _, time_ND, head_NLE = condition
        condition_NLE = self.s_projector(functional.silu(time_ND[:, None, :] + tokens_NLD))
        return head_NLE, (condition_NLE,)

    def decode(self, tokens_NLD: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        patches = self.final_layer(tokens_NLD, condition[0][:, : self.patch_tokens])
        return unpatchify(patches, 1, self.network.in_channels)


def build_lightning(network: Mapping[str, Any]) -> Denoiser:
    """LightningDiT from the dimensions that a RunConfig holds."""
    return LightningTransformer(LightningNetwork(**network))


def build_headed(network: Mapping[str, Any]) -> Denoiser:
    """DiT-DH from the dimensions that a RunConfig holds."""
    return HeadedTransformer(DhNetwork(**network))


def _norm(network: LightningNetwork) -> Callable[[int], nn.Module]:
    return rms_norm if network.rms_norm else layer_norm
