"""Which decoders of representation latents there are, and how one is trained: as facts (no torch)."""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from harness.errors import unknown_name
from harness.frozen import BelowOne, Frozen, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class DecoderSize(Frozen):
    """The transformer of a decoder: `width` in `layers` blocks of `heads` heads, MLPs of `hidden`."""

    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    hidden: PositiveInt

    @model_validator(mode="after")
    def _check_divisions(self) -> "DecoderSize":
        if self.width % self.heads or self.width % 4:
            raise ValueError("the width is a multiple of the heads, and of 4 for its position table")
        return self


# RAE's configs/decoder: the ratio of XL's MLP is not 4.  "tiny" is ours, for the digits.
SIZES: Mapping[str, DecoderSize] = {
    "tiny": DecoderSize(width=64, layers=2, heads=4, hidden=256),
    "vit-b": DecoderSize(width=768, layers=12, heads=12, hidden=3072),
    "vit-l": DecoderSize(width=1024, layers=24, heads=16, hidden=4096),
    "vit-xl": DecoderSize(width=1152, layers=28, heads=16, hidden=4096),
}


class DecoderShape(DecoderSize):
    """A decoder of `tokens` latents of `latent_channels` each into images of patches of `patch` squared pixels.

    What it puts out is multiplied by `std` and shifted by `mean`, which have one number per channel of the image:
    those of the encoder, so that images lie in [0, 1].
    """

    patch: PositiveInt
    latent_channels: PositiveInt
    tokens: PositiveInt
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[PositiveFloat, ...] = (1.0, 1.0, 1.0)

    @property
    def grid(self) -> int:
        """How many tokens lie along a side."""
        return math.isqrt(self.tokens)

    @property
    def image_size(self) -> int:
        """The side of its images, in pixels."""
        return self.grid * self.patch

    @property
    def image_channels(self) -> int:
        """3 for colours, 1 for grey."""
        return len(self.mean)

    @model_validator(mode="after")
    def _check_grid(self) -> "DecoderShape":
        if self.grid**2 != self.tokens:
            raise ValueError("the tokens fill a square")
        if len(self.mean) != len(self.std):
            raise ValueError("mean and std have a number for each channel")
        return self


class DecoderRecipe(Frozen):
    """How a decoder is trained; the defaults are RAE's, on ImageNet at 256 x 256.

    The learning rate rises over `warmup_epochs` and falls by a cosine to `final_learning_rate` at the last step.
    Latents are seen with noise of up to `noise_tau`, in relation to each token's norm with `norm_scaled_noise`.
    LPIPS with the weight `lpips_weight` is "required" or used "where-present"; without its weights it is then left
    out.  The discriminator is trained from epoch `discriminator_from` on and judges from `adversarial_from` on, both
    counted from 0; `adversarial_weight` 0 means none.
    """

    epochs: PositiveInt = 16
    batch_size: PositiveInt = 512
    learning_rate: PositiveFloat = 2e-4
    final_learning_rate: NonNegativeFloat = 2e-5
    warmup_epochs: NonNegativeInt = 1
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.95)
    weight_decay: NonNegativeFloat = 0.0
    ema_decay: BelowOne = 0.9978
    horizontal_flip: bool = True
    precision: Literal["float32", "bf16"] = "float32"
    noise_tau: NonNegativeFloat = 0.8
    norm_scaled_noise: bool = False
    l1_weight: NonNegativeFloat = 1.0
    l2_weight: NonNegativeFloat = 0.0
    lpips_weight: NonNegativeFloat = 1.0
    lpips: Literal["required", "where-present"] = "required"
    adversarial_weight: NonNegativeFloat = 0.75
    discriminator_from: NonNegativeInt = 6
    adversarial_from: NonNegativeInt = 8

    @model_validator(mode="after")
    def _check_losses(self) -> "DecoderRecipe":
        if self.l1_weight == self.l2_weight == 0:
            raise ValueError("a decoder learns from L1 or L2: give one of them a weight")
        if self.adversarial_weight and self.adversarial_from < self.discriminator_from:
            raise ValueError("a discriminator is trained before it judges")
        if self.warmup_epochs >= self.epochs:
            raise ValueError("a training is longer than its warm-up")
        return self

    def steps_per_epoch(self, images: int) -> int:
        """The last batch of an epoch is filled with the first images of the next."""
        return max(round(images / self.batch_size), 1)


RECIPES: Mapping[str, DecoderRecipe] = {
    "rae": DecoderRecipe(),
    "digits": DecoderRecipe(
        epochs=24,
        batch_size=64,
        learning_rate=2e-3,
        final_learning_rate=2e-5,
        ema_decay=0.99,
        horizontal_flip=False,
        noise_tau=0.2,
        lpips_weight=0.0,
        adversarial_weight=0.0,
    ),
}


def size(name: str) -> DecoderSize:
    """The decoder of a name; raises UserError for one that there is not."""
    if name not in SIZES:
        raise unknown_name("decoder", name, SIZES)
    return SIZES[name]


def recipe(name: str) -> DecoderRecipe:
    """The recipe of a name; raises UserError for one that there is not."""
    if name not in RECIPES:
        raise unknown_name("recipe of a decoder", name, RECIPES)
    return RECIPES[name]
