"""RAE's decoder: a transformer in the manner of ViT-MAE's, from representation latents to images."""

# N batch, L tokens of the decoder, C channels of a latent, D width, F width of the MLPs, H heads, d width of a head
# K channels of an image, G tokens along a side, P pixels along a patch's side, V values of a patch (P P K)

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoders import DecoderShape
from harness.errors import UserError
from harness.positions import sin_cos_2d
from harness.weights import fitted, read_official

EPSILON = 1e-12
CLASS_TOKEN_DEVIATION = 0.02


class MaeDecoder(nn.Module):
    """Latents, (N, L, C), to images, (N, K, G P, G P), in about [0, 1].

    Its parameters have the names of RAE's files (facebookresearch's ViT-MAE as transformers 4 writes it).  A fresh one
    has MAE's initial weights, drawn from torch's generator; `decoder_pos_embed` is fixed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        values = shape.patch**2 * shape.image_channels
        self.decoder_embed = nn.Linear(shape.latent_channels, shape.width)
        self.trainable_cls_token = nn.Parameter(torch.empty(1, 1, shape.width))
        self.decoder_pos_embed = nn.Parameter(_positions(shape), requires_grad=False)
        self.decoder_layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.decoder_norm = nn.LayerNorm(shape.width, eps=EPSILON)
        self.decoder_pred = nn.Linear(shape.width, values)
        self.set_pixels()
        self.apply(_initialise)
        nn.init.normal_(self.trainable_cls_token, std=CLASS_TOKEN_DEVIATION)

    def set_pixels(self) -> None:
        """Make the tensors of the shape's mean and std, which no file holds."""
        for name, values in (("mean", self.shape.mean), ("std", self.shape.std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, latents_NLC: Tensor) -> Tensor:
        patches_NLV = self.patches(latents_NLC)
        return unpatchify(patches_NLV, self.shape.patch) * self.std + self.mean

    def patches(self, latents_NLC: Tensor) -> Tensor:
        """What is predicted of each patch, (N, L, V), before `std` and `mean`."""
        tokens_NLD = self.embed(latents_NLC)
        for layer in self.decoder_layers:
            tokens_NLD = layer(tokens_NLD)
        patches_NLV: Tensor = self.decoder_pred(self.decoder_norm(tokens_NLD))
        return patches_NLV[:, 1:]

    def embed(self, latents_NLC: Tensor) -> Tensor:
        """The sequence before the first block, (N, 1 + L, D); latents of another square grid are resized to its own."""
        tokens_NLD = self.decoder_embed(latents_NLC)
        if tokens_NLD.shape[1] != self.shape.tokens:
            tokens_NLD = _resized(tokens_NLD, self.shape.grid)
        class_token_N1D = self.trainable_cls_token.expand(len(tokens_NLD), -1, -1)
        return torch.cat([class_token_N1D, tokens_NLD], dim=1) + self.decoder_pos_embed


def fresh_decoder(shape: DecoderShape, seed: int) -> MaeDecoder:
    """A decoder on the CPU whose weights follow from the seed; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MaeDecoder(shape)


def load_decoder(path: Path, shape: DecoderShape) -> MaeDecoder:
    """The decoder in RAE's file, or the EMA of a training's, for use: on the CPU, its parameters fixed.

    Raises UserError unless every key fits, where RAE's own code would leave a decoder random.
    """
    with torch.device("meta"):
        decoder = MaeDecoder(shape)
    try:
        state = fitted(decoder, read_official(path), {})
    except UserError as error:
        raise UserError(f"the decoder {path}: {error.problem}", f"for a decoder, {error.remedy}") from error
    decoder.load_state_dict(state, strict=True, assign=True)
    decoder.set_pixels()
    return decoder.eval().requires_grad_(requires_grad=False)


def unpatchify(patches_NLV: Tensor, patch: int) -> Tensor:
    """Patches row by row, each as (row, column, channel), put together: (N, K, G P, G P)."""
    N, L, V = patches_NLV.shape
    grid, channels = round(L**0.5), V // patch**2
    patches = patches_NLV.reshape(N, grid, grid, patch, patch, channels)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(N, channels, grid * patch, grid * patch)


class _Dense(nn.Module):
    """A linear layer that official files call `dense`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.dense(tokens)
        return out


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens_NLD: Tensor) -> Tensor:
        N, L, D = tokens_NLD.shape

        def split(projected_NLD: Tensor) -> Tensor:
            return projected_NLD.reshape(N, L, self.heads, D // self.heads).transpose(1, 2)

        q_NHLd, k_NHLd, v_NHLd = (split(each(tokens_NLD)) for each in (self.query, self.key, self.value))
        mixed_NHLd = functional.scaled_dot_product_attention(q_NHLd, k_NHLd, v_NHLd)
        return mixed_NHLd.transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = _SelfAttention(width, heads)
        self.output = _Dense(width, width)

    def forward(self, tokens_NLD: Tensor) -> Tensor:
        out: Tensor = self.output(self.attention(tokens_NLD))
        return out


class _Layer(nn.Module):
    """A pre-norm block."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.attention = _Attention(shape.width, shape.heads)
        self.intermediate = _Dense(shape.width, shape.hidden)
        self.output = _Dense(shape.hidden, shape.width)
        self.layernorm_before = nn.LayerNorm(shape.width, eps=EPSILON)
        self.layernorm_after = nn.LayerNorm(shape.width, eps=EPSILON)

    def forward(self, tokens_NLD: Tensor) -> Tensor:
        tokens_NLD = tokens_NLD + self.attention(self.layernorm_before(tokens_NLD))
        hidden_NLF = functional.gelu(self.intermediate(self.layernorm_after(tokens_NLD)))
        out: Tensor = tokens_NLD + self.output(hidden_NLF)
        return out


def _positions(shape: DecoderShape) -> Tensor:
    """The fixed table, (1, 1 + L, D): zeros for the class token."""
    table_LD = torch.tensor(sin_cos_2d(shape.grid, shape.grid, shape.width))
    return torch.cat([table_LD.new_zeros(1, shape.width), table_LD])[None]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _resized(tokens_NLD: Tensor, grid: int) -> Tensor:
    """A square of tokens as a square of another size, bilinearly."""
    side = round(tokens_NLD.shape[1] ** 0.5)
    assert side**2 == tokens_NLD.shape[1], f"{tokens_NLD.shape[1]} latents fill no square"
    image = tokens_NLD.transpose(1, 2).reshape(len(tokens_NLD), -1, side, side)
    resized = functional.interpolate(image, (grid, grid), mode="bilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2)
