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
class Read:
    """What is read of n images for a training step: moments or pixels, noise for their posteriors, and labels (n,).

    `posterior` is a 0 for all where the codec draws nothing.
    """

    values: Values
    posterior: Values
    labels: Labels


@dataclass(frozen=True)
class Source:
    """Images and the codec between them and the denoiser; their moments, where those are kept on disk."""

    images: Images
    codec: Codec
    moments: Moments | None = None

    def data(self, indices: Indices, flipped: npt.NDArray[np.bool_]) -> Tensor:
        """The latents of these images, (N, C, h, h), at the means of their posteriors."""
        values = torch.from_numpy(self.read(indices, flipped)).to(self.codec.device)
        return self.latents(values, values.new_zeros(()))

    def read(self, indices: Indices, flipped: npt.NDArray[np.bool_]) -> Values:
        """The moments of these images, or where those are not kept their pixels in [-1, 1]: the disk's part."""
        if self.moments is not None:
            return self.moments.of(indices, flipped)
        pixels = to_unit(self.images.pixels(indices))
        pixels[flipped] = pixels[flipped, :, :, ::-1]
        return pixels

    def latents(self, values: Tensor, posterior: Tensor) -> Tensor:
        """What was read, on the codec's device, as latents (N, C, h, h) drawn by that noise: the device's part."""
        return self.codec.latents(values if self.moments is not None else self.codec.moments(values), posterior)

    def posterior_noise(self, seed: int, step: int, held: range, count: int) -> Values:
        """The draws of one training step for those of its `count` images that are held; a 0 where there are none."""
        if not self.codec.draws:
            return np.zeros((), np.float32)
        channels, height, width = self.codec.moments_shape
        shape = (count, channels // 2, height, width)
        drawn = generator(seed, Stream.POSTERIOR, step).standard_normal(shape, dtype=np.float32)
        return drawn[held.start : held.stop]


def open_source(config: RunConfig, images: Images, codec: Codec) -> Source:
    """The source of a run; the moments of a costly codec are computed first, or found."""
    if not codec.is_cached:
        return Source(images, codec)
    folder, batch = Path(config.execution.runs) / "latents", config.execution.sampling_batch
    return Source(images, codec, moments_of(images, config.task, codec, folder, batch))


def read_step(config: RunConfig, source: Source, step: int, held: range) -> Read:
    """The images `held` of one step's batch: the batch is a function of (seed, step) alone."""
    size = config.recipe.batch_size
    indices = indices_of(config.seed, step, size, len(source.images))
    flipped = np.zeros(size, np.bool_)
    if config.task.horizontal_flip:
        flipped = generator(config.seed, Stream.DATA_ORDER, 2 * step + 1).random(size) < FLIP_SHARE
    here = slice(held.start, held.stop)
    return Read(
        source.read(indices[here], flipped[here]),
        source.posterior_noise(config.seed, step, held, size),
        source.images.labels[indices[here]],
    )


def indices_of(seed: int, step: int, size: int, count: int) -> Indices:
    """The images of one step, out of `count`.  Each epoch is a new order of all of them."""
    positions = np.arange(step * size, (step + 1) * size)
    return np.array([_order(seed, int(p // count), count)[p % count] for p in positions])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Indices:
    return generator(seed, Stream.DATA_ORDER, 2 * epoch).permutation(count)
