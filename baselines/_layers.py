"""The parts that diffusion transformers share, under the names of the official state dicts."""

# N batch, L tokens, D width, C channels, G patches per side, P patch side

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

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


class TimestepEmbedding(nn.Module):
    """cos and sin of t at 128 frequencies, then a two-layer MLP: (N,) to (N, D).

    The frequencies are exp(-ln(10000) i / 128) in float32, exactly: at t near 999 another rounding moves the output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        first, last = nn.Linear(2 * FREQUENCIES, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)
        _normal(first)
        _normal(last)

    def forward(self, t_N: Tensor) -> Tensor:
        steps = torch.arange(FREQUENCIES, dtype=torch.float32, device=t_N.device)
        frequencies = torch.exp(-math.log(10000) * steps / FREQUENCIES)
        angles = t_N[:, None].float() * frequencies
        features = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        embedding_ND: Tensor = self.mlp(features)
        return embedding_ND


class LabelEmbedding(nn.Module):
    """A row for each class and, where labels may be dropped, a last one for "no class": (N,) to (N, D)."""

    def __init__(self, num_classes: int, width: int, *, null_class: bool) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + null_class, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, y_N: Tensor) -> Tensor:
        embedding_ND: Tensor = self.embedding_table(y_N)
        return embedding_ND


class Attention(nn.Module):
    """Full self-attention over patches and registers alike: (N, L, D) to (N, L, D)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        _xavier(self.qkv)
        _xavier(self.proj)

    def forward(self, tokens_NLD: Tensor) -> Tensor:
        N, L, D = tokens_NLD.shape
        qkv = self.qkv(tokens_NLD).view(N, L, 3, self.num_heads, D // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(N, L, D)
        out_NLD: Tensor = self.proj(mixed)
        return out_NLD


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


class Modulation(nn.Sequential):
    """adaLN-Zero: `pieces` vectors (N, 1, D) from the condition (N, D).  Starts at zero."""

    def __init__(self, width: int, pieces: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(width, pieces * width))
        self.pieces = pieces
        _zero(self[1])

    def vectors(self, condition_ND: Tensor) -> tuple[Tensor, ...]:
        """The pieces in the official order: shift, scale, gate, and again; or shift, scale."""
        stacked: Tensor = self(condition_ND)
        return tuple(stacked[:, None, :].chunk(self.pieces, dim=-1))


class Block(nn.Module):
    """A transformer block whose shifts, scales and gates come from the condition (DiT, arXiv 2212.09748)."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads)
        self.mlp = GeluMlp(width, int(width * mlp_ratio))
        self.adaLN_modulation = Modulation(width, 6)

    def forward(self, tokens_NLD: Tensor, condition_ND: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation.vectors(condition_ND)
        tokens_NLD = tokens_NLD + gate1 * self.attn(modulate(normalise(tokens_NLD), shift1, scale1))
        tokens_NLD = tokens_NLD + gate2 * self.mlp(modulate(normalise(tokens_NLD), shift2, scale2))
        return tokens_NLD  # noqa: RET504


class FinalLayer(nn.Module):
    """From tokens (N, L, D) to patches (N, L, P P C), the last modulation included.  Starts at zero."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = Modulation(width, 2)
        _zero(self.linear)

    def forward(self, tokens_NLD: Tensor, condition_ND: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation.vectors(condition_ND)
        patches: Tensor = self.linear(modulate(normalise(tokens_NLD), shift, scale))
        return patches


def fixed_positions(rows: int, columns: int, width: int) -> nn.Parameter:
    """The 2-D sin-cos table (1, rows columns, D): in the state dict and the parameter count, not trained."""
    return nn.Parameter(torch.tensor(sin_cos_2d(rows, columns, width))[None], requires_grad=False)


def normalise(tokens_NLD: Tensor) -> Tensor:
    """Layer norm without gain or bias."""
    return functional.layer_norm(tokens_NLD, tokens_NLD.shape[-1:], eps=NORM_EPSILON)


def modulate(tokens_NLD: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """tokens (1 + scale) + shift."""
    return tokens_NLD * (1 + scale) + shift


def unpatchify(patches: Tensor, patch_size: int, channels: int) -> Tensor:
    """Patches (N, G G, P P C), channel last within a patch, to an image (N, C, G P, G P)."""
    N, L, _ = patches.shape
    G, P = math.isqrt(L), patch_size
    grid = patches.view(N, G, G, P, P, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(N, channels, G * P, G * P)


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
