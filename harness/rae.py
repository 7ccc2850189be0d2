"""RAE's stage 1 as formulas: from an encoder's features to latents that are whitened, and back to images."""

# N batch, L tokens, C channels of a latent, h and w its height and width, K channels of an image

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from harness.encoder import Features
from harness.frozen import Frozen
from harness.mae_decoder import MaeDecoder

NORM_RATIO_FLOOR, NORM_RATIO_CEILING, MEDIAN_EPSILON = 0.20, 5.0, 1e-6
EPSILON = 1e-5

AddNoise = Callable[[Tensor, Tensor], Tensor]


class Latents(NamedTuple):
    """Latents, (N, C, h, w) or (N, L, C), and the norm of each, with one channel."""

    values: Tensor
    norms: Tensor


class LatentForm(Frozen):
    """Which of an encoder's features become latents, and in which shape.

    `before_norm` takes the last block's output, not the final norm's (RAE's `preln`).  `as_grid` makes (N, C, h, w) of
    tokens (`reshape_to_2d`).  With `norms_of_whitened`, norms are those of the whitened latents and noise is added to
    these (`post_stat_norm`).
    """

    before_norm: bool = False
    as_grid: bool = True
    norms_of_whitened: bool = False


@dataclass(frozen=True)
class Whitening:
    """(z - shift) / scale, and back; both broadcast against latents of one image."""

    shift: Tensor
    scale: Tensor

    def whiten(self, latents: Tensor) -> Tensor:
        return (latents - self.shift.to(latents)) / self.scale.to(latents)

    def unwhiten(self, latents: Tensor) -> Tensor:
        return latents * self.scale.to(latents) + self.shift.to(latents)


NO_WHITENING = Whitening(torch.zeros(()), torch.ones(()))


def whitening_of(mean: Tensor | None, variance: Tensor | None, epsilon: float = EPSILON) -> Whitening:
    """The whitening of statistics; a file without a mean means 0, one without a variance 1."""
    scale = torch.ones(()) if variance is None else variance
    return Whitening(torch.zeros(()) if mean is None else mean, (scale + epsilon).sqrt())


def no_noise(latents: Tensor, norms: Tensor) -> Tensor:
    """Latents as they are: RAE's evaluation mode."""
    del norms
    return latents


@dataclass(frozen=True)
class Noise:
    """z + tau u e: RAE's augmentation, with one uniform draw u per image and normal draws e of the shape of z.

    `norm_scaled` noise is in proportion to a token's norm over the image's median, between 0.2 and 5 times.
    """

    tau: float
    uniform: Tensor
    normal: Tensor
    norm_scaled: bool = False

    def __call__(self, latents: Tensor, norms: Tensor) -> Tensor:
        sigma = self.tau * self.uniform.reshape(-1, *[1] * (latents.ndim - 1))
        if self.norm_scaled:
            median = norms.flatten(1).median(dim=1).values.reshape(-1, *[1] * (norms.ndim - 1))
            sigma = sigma * (norms / (median + MEDIAN_EPSILON)).clamp(NORM_RATIO_FLOOR, NORM_RATIO_CEILING)
        return latents + sigma * self.normal


def encode(
    features: Features, form: LatentForm, whitening: Whitening = NO_WHITENING, add_noise: AddNoise = no_noise
) -> Latents:
    """An encoder's features as latents, whitened.  Noise is added before whitening, or as the form says after it.

    `add_noise` sees (N, L, C) before whitening, as RAE draws it, and the form's shape after it.
    """
    tokens_NLC = features.raw if form.before_norm else features.normed
    norms = norms_of(tokens_NLC, is_grid=False)
    if not form.norms_of_whitened:
        tokens_NLC = add_noise(tokens_NLC, norms)
    values, norms = (as_grid(tokens_NLC), as_grid(norms)) if form.as_grid else (tokens_NLC, norms)
    values = whitening.whiten(values)
    if form.norms_of_whitened:
        norms = norms_of(values, is_grid=form.as_grid)
        values = add_noise(values, norms)
    return Latents(values, norms)


def decode(latents: Tensor, decoder: MaeDecoder, whitening: Whitening = NO_WHITENING) -> Tensor:
    """Images, (N, K, H, W) in about [0, 1] and not clamped, of whitened latents, (N, C, h, w) or (N, L, C)."""
    values = whitening.unwhiten(latents)
    images: Tensor = decoder(as_tokens(values) if values.ndim == 4 else values)
    return images


def as_grid(tokens_NLC: Tensor) -> Tensor:
    """A square of tokens, row by row, as (N, C, h, w)."""
    side = round(tokens_NLC.shape[1] ** 0.5)
    return tokens_NLC.transpose(1, 2).reshape(len(tokens_NLC), -1, side, side)


def as_tokens(latents_NChw: Tensor) -> Tensor:
    """The other way: (N, L, C)."""
    return latents_NChw.flatten(2).transpose(1, 2)


def norms_of(latents: Tensor, *, is_grid: bool) -> Tensor:
    """The L2 norm of each latent over its channels, which it keeps as one."""
    norms: Tensor = torch.linalg.vector_norm(latents, dim=1 if is_grid else -1, keepdim=True)
    return norms
