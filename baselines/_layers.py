"""The parts that diffusion transformers share, under the names of the official state dicts."""

# N batch, L tokens, D width, C channels, G patches per side, P patch side

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.attention import MixesTokens
from harness.denoiser import Denoiser
from harness.positions import sin_cos_2d

FREQUENCIES = 128
NORM_EPSILON = 1e-6


class PatchEmbedding(nn.Module):
    """Non-overlapping patches through one convolution: (N, C, G P, G P) to (N, G G, D), row by row."""

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        _xavier(self.proj)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        tokens_NLD: Tensor = self.proj(x_NCHW).flatten(2).transpose(1, 2)
        return tokens_NLD


class BottleneckPatchEmbedding(nn.Module):
    """JiT's patches: one convolution to a few channels, another to the width; (N, C, G P, G P) to (N, G G, D)."""

    def __init__(self, in_channels: int, bottleneck: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(in_channels, bottleneck, patch_size, stride=patch_size, bias=False)
        self.proj2 = nn.Conv2d(bottleneck, width, 1)
        nn.init.xavier_uniform_(self.proj1.weight.view(bottleneck, -1))
        _xavier(self.proj2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        tokens_NLD: Tensor = self.proj2(self.proj1(x_NCHW)).flatten(2).transpose(1, 2)
        return tokens_NLD


class TimestepEmbedding(nn.Module):
    """cos and sin of t at 128 frequencies, then a two-layer MLP: (N,) to (N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, last = nn.Linear(2 * FREQUENCIES, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)
        _normal(first)
        _normal(last)

    def forward(self, t_N: Tensor) -> Tensor:
        angles = t_N[:, None].float() * timestep_frequencies(t_N.device)
        features = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        embedding_ND: Tensor = self.mlp(features)
        return embedding_ND


def timestep_frequencies(device: torch.device) -> Tensor:
    """exp(-ln(10000) i / 128) for i = 0..127, (128,): in float32 and in the official order of operations.

    At t near 999 one more rounding of a frequency moves what a sampler ends with, and processors differ in some.
    """
    steps = torch.arange(FREQUENCIES, dtype=torch.float32, device=device)
    return torch.exp(-math.log(10000) * steps / FREQUENCIES)


class LabelEmbedding(nn.Module):
    """A row for each class and, where labels may be dropped, a last one for "no class": (N,) to (N, D)."""

    def __init__(self, num_classes: int, width: int, *, null_class: bool) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + null_class, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, y_N: Tensor) -> Tensor:
        embedding_ND: Tensor = self.embedding_table(y_N)
        return embedding_ND


class FourierTimeEmbedding(nn.Module):
    """sin and cos of t at 256 random frequencies, fixed by construction, then a two-layer MLP: (N,) to (N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(2 * FREQUENCIES), requires_grad=False)
        first, last = nn.Linear(4 * FREQUENCIES, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)
        _normal(first)
        _normal(last)

    def forward(self, t_N: Tensor) -> Tensor:
        angles = t_N[:, None] * self.W * 2 * math.pi
        embedding_ND: Tensor = self.mlp(torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1))
        return embedding_ND


class Rotary(nn.Module):
    """2-D rotary positions: the first half of a head turns with the ROW, the second with the column.

    Tokens behind the patches, such as registers, are not turned.  The tables are in the state dict where the official
    network has them there (RAE, DSR) and not where it has not (JiT).
    """

    def __init__(self, side: int, head_width: int, *, persistent: bool) -> None:
        super().__init__()
        pairs = torch.arange(0, head_width // 2, 2).float() / (head_width // 2)
        turns = torch.outer(torch.arange(side).float(), 1.0 / 10000**pairs).repeat_interleave(2, dim=-1)
        rows = turns[:, None, :].expand(side, side, -1)
        angles = torch.cat([rows, rows.transpose(0, 1)], dim=-1).reshape(side * side, head_width)
        self.register_buffer("freqs_cos", angles.cos(), persistent=persistent)
        self.register_buffer("freqs_sin", angles.sin(), persistent=persistent)

    def forward(self, heads_NHLd: Tensor) -> Tensor:
        cos_Ld, sin_Ld = self.get_buffer("freqs_cos"), self.get_buffer("freqs_sin")
        behind = heads_NHLd.shape[-2] - len(cos_Ld)
        if behind:
            cos_Ld = functional.pad(cos_Ld, (0, 0, 0, behind), value=1.0)
            sin_Ld = functional.pad(sin_Ld, (0, 0, 0, behind))
        even, odd = heads_NHLd.view(*heads_NHLd.shape[:-1], -1, 2).unbind(-1)
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
        return (heads_NHLd * cos_Ld + turned * sin_Ld).to(heads_NHLd.dtype)


class ClassConditional(Denoiser):
    """A denoiser whose classes are rows of a table."""

    y_embedder: LabelEmbedding

    def embed_label(self, y_N: Tensor) -> Tensor:
        label_ND: Tensor = self.y_embedder(y_N)
        return label_ND


@dataclass(frozen=True)
class AttentionDesign:
    """What families differ in: norms of queries and keys, made before or after `qkv` in the state dict; precision."""

    query_key_norm: Callable[[int], nn.Module] = nn.Identity
    norms_first: bool = False
    float32_logits: bool = False
    dropout: float = 0.0


class Attention(MixesTokens):
    """Full self-attention over patches and whatever rides behind them: (N, L, D) to (N, L, D)."""

    def __init__(self, width: int, num_heads: int, design: AttentionDesign | None = None) -> None:
        super().__init__(width, num_heads)
        design = design or AttentionDesign()
        self.float32_logits = design.float32_logits
        if design.norms_first:
            self._make_norms(design)
        self.qkv = nn.Linear(width, 3 * width)
        if not design.norms_first:
            self._make_norms(design)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(design.dropout)
        _xavier(self.qkv)
        _xavier(self.proj)

    def forward(self, tokens_NLD: Tensor, rotary: nn.Module) -> Tensor:
        N, L, D = tokens_NLD.shape
        qkv = self.qkv(tokens_NLD).view(N, L, 3, self.num_heads, self.head_width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.float32_logits:
            q, k = q.float(), k.float()
        q, k = rotary(self.q_norm(q)), rotary(self.k_norm(k))
        if self.float32_logits and not tokens_NLD.is_meta:
            with torch.autocast(tokens_NLD.device.type, enabled=False):
                mixed = self.mixing(q.float(), k.float(), v.float(), tokens_NLD.float())
        else:
            mixed = self.mixing(q, k.to(q.dtype), v.to(q.dtype), tokens_NLD)
        out_NLD: Tensor = self.dropout(self.proj(mixed.transpose(1, 2).reshape(N, L, D)))
        return out_NLD

    def _make_norms(self, design: AttentionDesign) -> None:
        self.q_norm = design.query_key_norm(self.head_width)
        self.k_norm = design.query_key_norm(self.head_width)


class GeluMlp(nn.Module):
    """Two layers around a tanh-approximated GELU: (N, L, D) to (N, L, D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        _xavier(self.fc1)
        _xavier(self.fc2)

    def forward(self, tokens_NLD: Tensor) -> Tensor:
        out_NLD: Tensor = self.fc2(functional.gelu(self.fc1(tokens_NLD), approximate="tanh"))
        return out_NLD


class SwiGlu(nn.Module):
    """w3(silu(a) b), where w12 makes a and b; two thirds of `hidden` wide, so that it costs what a GELU MLP does."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        inner = int(hidden * 2 / 3)
        self.w12 = nn.Linear(width, 2 * inner)
        self.w3 = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        _xavier(self.w12)
        _xavier(self.w3)

    def forward(self, tokens_NLD: Tensor) -> Tensor:
        a, b = self.w12(tokens_NLD).chunk(2, dim=-1)
        out_NLD: Tensor = self.w3(self.dropout(functional.silu(a) * b))
        return out_NLD


class Modulation(nn.Sequential):
    """adaLN-Zero: `pieces` vectors from the condition, one condition (N, D) or one for each token (N, L, D)."""

    def __init__(self, width: int, pieces: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(width, pieces * width))
        self.pieces = pieces
        _zero(self[1])

    def vectors(self, condition: Tensor) -> tuple[Tensor, ...]:
        """The pieces in the official order, (N, 1, D) or (N, L, D): shift, scale, gate, and again; or shift, scale."""
        stacked: Tensor = self(condition)
        return tuple((stacked if stacked.dim() == 3 else stacked[:, None, :]).chunk(self.pieces, dim=-1))


class Block(nn.Module):
    """A transformer block whose shifts, scales and gates come from the condition (DiT, arXiv 2212.09748).

    A family's block makes the parts, in the order of its official state dict.  A modulation of four pieces has no
    shifts.
    """

    norm1: nn.Module
    norm2: nn.Module
    attn: Attention
    mlp: nn.Module
    adaLN_modulation: Modulation

    def forward(self, tokens_NLD: Tensor, condition: Tensor, rotary: nn.Module) -> Tensor:
        vectors = self.adaLN_modulation.vectors(condition)
        if len(vectors) == 4:
            none = torch.zeros_like(vectors[0])
            vectors = (none, *vectors[:2], none, *vectors[2:])
        shift1, scale1, gate1, shift2, scale2, gate2 = vectors
        tokens_NLD = tokens_NLD + gate1 * self.attn(modulate(self.norm1(tokens_NLD), shift1, scale1), rotary)
        tokens_NLD = tokens_NLD + gate2 * self.mlp(modulate(self.norm2(tokens_NLD), shift2, scale2))
        return tokens_NLD  # noqa: RET504


class FinalLayer(nn.Module):
    """From tokens (N, L, D) to patches (N, L, P P C), the last modulation included.  Starts at zero."""

    def __init__(self, width: int, outputs: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm_final = norm(width)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = Modulation(width, 2)
        _zero(self.linear)

    def forward(self, tokens_NLD: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation.vectors(condition)
        patches: Tensor = self.linear(modulate(self.norm_final(tokens_NLD), shift, scale))
        return patches


def layer_norm(width: int) -> nn.Module:
    """Layer norm without gain or bias: no key."""
    return nn.LayerNorm(width, eps=NORM_EPSILON, elementwise_affine=False)


def rms_norm(width: int) -> nn.Module:
    """x / root mean square, times a learned gain."""
    return nn.RMSNorm(width, eps=NORM_EPSILON)


def fixed_positions(rows: int, columns: int, width: int) -> nn.Parameter:
    """The 2-D sin-cos table (1, rows columns, D): in the state dict and the parameter count, not trained."""
    return nn.Parameter(torch.tensor(sin_cos_2d(rows, columns, width))[None], requires_grad=False)


def modulate(tokens_NLD: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """tokens (1 + scale) + shift."""
    return tokens_NLD * (1 + scale) + shift


def unpatchify(patches: Tensor, patch_size: int, channels: int) -> Tensor:
    """Patches (N, G G, P P C), channel last within a patch, to an image (N, C, G P, G P)."""
    N, L, _ = patches.shape
    G, P = math.isqrt(L), patch_size
    grid = patches.view(N, G, G, P, P, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(N, channels, G * P, G * P)


def restart_linears(module: nn.Module) -> None:
    """Start linear layers as PyTorch does, biases included, but for those that start at zero (DiT-DH)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.reset_parameters()
    for part in module.modules():
        if isinstance(part, Modulation):
            _zero(part[1])
        elif isinstance(part, FinalLayer):
            _zero(part.linear)
        elif isinstance(part, FourierTimeEmbedding):
            for layer in (layer for layer in part.mlp if isinstance(layer, nn.Linear)):
                nn.init.normal_(layer.weight, std=0.02)


def _xavier(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.xavier_uniform_(layer.weight.view(layer.weight.shape[0], -1))
    _zero_bias(layer)


def _normal(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=0.02)
    _zero_bias(layer)


def _zero(layer: nn.Module) -> None:
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    _zero_bias(layer)


def _zero_bias(layer: nn.Linear | nn.Conv2d) -> None:
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
