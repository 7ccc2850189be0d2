"""What a denoiser learns: the images of a task, as its latents."""

# N batch, C channels of the latents, h their side

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.codec import Codec
from harness.data import Images, Labels
from harness.images import Values, to_unit
from harness.latent_cache import Moments, moments_of
from harness.randomness import Stream, generator
from harness.spec import RunConfig

FLIP_SHARE = 0.5

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What one training step sees: data (N, C, h, h) on the codec's device, and labels (N,)."""

    data: Tensor
    labels: Labels


@dataclass(frozen=True)
class Source:
    """Images and the codec between them and the denoiser; their moments, where those are kept on disk."""

    images: Images
    codec: Codec
    moments: Moments | None = None

    def data(self, indices: Indices, flipped: npt.NDArray[np.bool_], noise: Values | None = None) -> Tensor:
        """The latents of these images, (N, C, h, h); `noise` draws from a posterior, whose mean None gives."""
        moments = torch.from_numpy(self._moments(indices, flipped)).to(self.codec.device)
        if self.moments is None:
            moments = self.codec.moments(moments)
        drawn = moments.new_zeros(()) if noise is None else torch.from_numpy(noise).to(self.codec.device)
        return self.codec.latents(moments, drawn)

    def posterior_noise(self, seed: int, step: int, count: int) -> Values | None:
        """The draws of one training step, where the codec makes any."""
        if not self.codec.draws:
            return None
        channels, height, width = self.codec.moments_shape
        shape = (count, channels // 2, height, width)
        return generator(seed, Stream.POSTERIOR, step).standard_normal(shape, dtype=np.float32)

    def _moments(self, indices: Indices, flipped: npt.NDArray[np.bool_]) -> Values:
        if self.moments is not None:
            return self.moments.of(indices, flipped)
        pixels = to_unit(self.images.pixels(indices))
        pixels[flipped] = pixels[flipped, :, :, ::-1]
        return pixels


def open_source(config: RunConfig, images: Images, codec: Codec) -> Source:
    """The source of a run; the moments of a costly codec are computed first, or found."""
    if not codec.is_cached:
        return Source(images, codec)
    folder, batch = Path(config.execution.runs) / "latents", config.execution.sampling_batch
    return Source(images, codec, moments_of(images, config.task, codec, folder, batch))


def training_batch(config: RunConfig, source: Source, step: int) -> Batch:
    """The batch of one step: a function of (seed, step) alone."""
    size = config.recipe.batch_size
    indices = indices_of(config.seed, step, size, len(source.images))
    flipped = np.zeros(size, np.bool_)
    if config.task.horizontal_flip:
        flipped = generator(config.seed, Stream.DATA_ORDER, 2 * step + 1).random(size) < FLIP_SHARE
    noise = source.posterior_noise(config.seed, step, size)
    return Batch(source.data(indices, flipped, noise), source.images.labels[indices])


def indices_of(seed: int, step: int, size: int, count: int) -> Indices:
    """The images of one step, out of `count`.  Each epoch is a new order of all of them."""
    positions = np.arange(step * size, (step + 1) * size)
    return np.array([_order(seed, int(p // count), count)[p % count] for p in positions])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Indices:
    return generator(seed, Stream.DATA_ORDER, 2 * epoch).permutation(count)
