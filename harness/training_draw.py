"""All that is random in a training step: the numbers of the whole batch, as one process holds its share of them."""

# n images held, C channels, H height, W width

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.denoiser import Denoiser
from harness.distributed import World, share_of
from harness.randomness import Stream, generator
from harness.source import Source, read_step
from harness.spec import RunConfig


@dataclass(frozen=True)
class Shares:
    """Which images of each batch a process holds, and the stretches of those that it learns from, one by one.

    All of a process's own are in the pieces.  It holds more where a loss needs the whole batch.
    """

    held: range
    pieces: tuple[slice, ...]


@dataclass(frozen=True)
class Draw:
    """The draws of one step for n images: what was read of them, and what becomes of them.

    `read` and `posterior` are moments or pixels, and the noise of their posteriors; `noise` is (n, C, H, W).
    """

    with_registers: bool
    read: Tensor
    posterior: Tensor
    labels_n: Tensor
    noise: Tensor
    uniform_n: Tensor

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Draw":
        """The same elsewhere."""
        tensors = (self.read, self.posterior, self.labels_n, self.noise, self.uniform_n)
        return Draw(self.with_registers, *map(move, tensors))


def shares_of(config: RunConfig, world: World) -> Shares:
    """What this process holds of each batch.  A loss mask's weights are 1 on average over the whole of it."""
    size, accumulate = config.recipe.batch_size, config.execution.accumulate
    own = world.share(size)
    held = own if config.registers.loss_mask is None else range(size)
    parts = (share_of(len(own), index, accumulate) for index in range(accumulate))
    offset = own.start - held.start
    return Shares(held, tuple(slice(offset + part.start, offset + part.stop) for part in parts))


def numbers_of(config: RunConfig, source: Source) -> int:
    """About how many random numbers `draw_step` draws."""
    channels, side = config.latents.shape(config.task)
    posterior = source.codec.draws * math.prod(source.codec.moments_shape) // 2
    return config.recipe.batch_size * (channels * side * side + posterior)


def draw_step(config: RunConfig, denoiser: Denoiser, source: Source, step: int, held: range) -> Draw:
    """The draws of a step for the images that are held, in the host's memory.

    Each is a function of (seed, step) and the image's place in the batch: all processes draw all numbers.
    """
    size, here = config.recipe.batch_size, slice(held.start, held.stop)
    read = read_step(config, source, step, held)
    channels, side = config.latents.shape(config.task)
    random = generator(config.seed, Stream.TRAINING, step)
    noise = random.standard_normal((size, channels, side, side), dtype=np.float32)[here]
    uniform = random.random(size, dtype=np.float32)[here]
    labels = read.labels
    if config.recipe.label_dropout:
        assert denoiser.null_label is not None, "labels are dropped from a network without a null class"
        dropped = random.random(size)[here] < config.recipe.label_dropout
        labels = np.where(dropped, denoiser.null_label, labels)
    guidance = config.registers.guidance
    with_registers = guidance is None or random.random() >= guidance.drop_probability
    return Draw(with_registers, *map(torch.from_numpy, (read.values, read.posterior, labels, noise, uniform)))
