"""The encoder seam: a vision transformer whose patch tokens are taken, with a place where registers may enter."""

# N batch, L tokens, D width, F width of the MLPs, C channels, H height, W width of the input

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from harness.denoiser import watch_nothing
from harness.encoders import EncoderDefinition

FinalNorm = Literal["plain", "affine"]


class Features(NamedTuple):
    """The patch tokens of images, (N, L, D) each: after the final norm, and as the last block put them out."""

    normed: Tensor
    raw: Tensor


class ExtraTokens(nn.Module, ABC):
    """Tokens that ride at the end of an encoder's sequence, from before the first block until after the last."""

    count: int

    @abstractmethod
    def enter(self, tokens_NLD: Tensor) -> Tensor:
        """The sequence that the first block receives."""


class NoExtraTokens(ExtraTokens):
    """None."""

    count = 0

    def enter(self, tokens_NLD: Tensor) -> Tensor:
        return tokens_NLD


class Encoder(nn.Module):
    """A timm VisionTransformer or Eva (DINOv3) as a frozen encoder of images.

    `forward` takes normalised pixels, (N, C, S, S), and gives Features: the patches of `output_layer` (-1 the last),
    without class token, trained registers and extra tokens.  The final norm has no affine part, as RAE has it
    ("plain"), or the model's own ("affine").  `watch(layer, tokens)` sees every block's output, whole.
    """

    extra: ExtraTokens
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        definition: EncoderDefinition,
        vit: VisionTransformer | Eva,
        *,
        final_norm: FinalNorm = "plain",
        output_layer: int = -1,
    ) -> None:
        super().__init__()
        self.definition, self.vit = definition, vit
        self.final_norm, self.output_layer = final_norm, output_layer
        self.num_prefix_tokens = definition.num_prefix_tokens
        self.num_patches = definition.grid**2
        self.width, self.depth = definition.width, definition.depth
        self.extra = NoExtraTokens()
        self.register_buffer("mean", torch.tensor(definition.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(definition.std)[:, None, None], persistent=False)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, pixels_NCHW: Tensor, watch: Callable[[int, Tensor], None] = watch_nothing) -> Features:
        tokens_NLD, rope = self._embed(pixels_NCHW)
        blocks: Any = self.vit.blocks
        for layer in range(self.depth if self.output_layer < 0 else self.output_layer):
            tokens_NLD = blocks[layer](tokens_NLD) if rope is None else blocks[layer](tokens_NLD, rope=rope(layer))
            watch(layer, tokens_NLD)
        raw_NLD = self.patches(tokens_NLD)
        return Features(raw_NLD if self.output_layer >= 0 else self._norm(raw_NLD), raw_NLD)

    def patches(self, tokens_NLD: Tensor) -> Tensor:
        """The patch tokens of a whole sequence, (N, L, D)."""
        return tokens_NLD[:, self.num_prefix_tokens : self.num_prefix_tokens + self.num_patches]

    def normalised(self, images_NCHW: Tensor) -> Tensor:
        """Images in [0, 1] as the encoder wants them: resized (bicubic, no antialias, no clamping), then normalised."""
        side = self.definition.image_size
        if images_NCHW.shape[-2:] != (side, side):
            images_NCHW = functional.interpolate(images_NCHW, (side, side), mode="bicubic", align_corners=False)
        return (images_NCHW - self.mean) / self.std

    def activation_point(self, layer: int) -> nn.Module:
        """The second linear layer of a block's MLP: what enters it, (N, L, F), is the MLP's activation."""
        blocks: Any = self.vit.blocks
        point: nn.Module = blocks[layer].mlp.fc2
        return point

    def written_norms(self, layer: int) -> Tensor:
        """The norm of what one unit of each neuron of a block's MLP adds to a token, (F,)."""
        blocks: Any = self.vit.blocks
        block, written_DF = blocks[layer], blocks[layer].mlp.fc2.weight
        scale = getattr(getattr(block, "ls2", None), "gamma", getattr(block, "gamma_2", None))
        norms_F: Tensor = (written_DF if scale is None else scale[:, None] * written_DF).float().norm(dim=0)
        return norms_F

    def _embed(self, pixels_NCHW: Tensor) -> tuple[Tensor, Callable[[int], Tensor] | None]:
        """The sequence before the first block, and the rotary positions of each layer, where there are any."""
        patches: Any = self.vit.patch_embed(pixels_NCHW)
        if not isinstance(self.vit, Eva):
            return self.extra.enter(self.vit.norm_pre(self.vit._pos_embed(patches))), None  # noqa: SLF001
        tokens_NLD, rope = self.vit._pos_embed(patches)  # noqa: SLF001
        tokens_NLD = self.extra.enter(self.vit.norm_pre(tokens_NLD))
        if rope is None:
            return tokens_NLD, None
        rope = _unturned(rope, self.extra.count)
        is_mixed = getattr(self.vit, "rope_mixed", False)
        return tokens_NLD, lambda layer: rope[layer] if is_mixed else rope

    def _norm(self, tokens_NLD: Tensor) -> Tensor:
        if self.final_norm == "affine":
            normed: Tensor = self.vit.norm(tokens_NLD)
            return normed
        return functional.layer_norm(tokens_NLD, (self.width,), eps=self.definition.epsilon)


def _unturned(rope: Tensor, count: int) -> Tensor:
    """Rotary positions, [sine, cosine] of each patch, with `count` more that leave their token as it is."""
    if count == 0:
        return rope
    half = rope.shape[-1] // 2
    still = torch.cat([rope.new_zeros(half), rope.new_ones(half)]).expand(*rope.shape[:-2], count, 2 * half)
    return torch.cat([rope, still], dim=-2)
