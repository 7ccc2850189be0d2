"""Make images from a trained denoiser: image i depends on (seed, i), not on the batch it was made in."""

# N batch, C channels, H height, W width

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.codec import Codec
from harness.denoiser import Denoiser
from harness.files import read_array, sweep_parts, write_array
from harness.guidance import Asked, guided
from harness.images import Pixels, Values, to_uint8
from harness.objective import Model, draw_samples, own_time
from harness.progress import Progress
from harness.randomness import Stream, generator
from harness.spec import RunConfig
from harness.tiles import in_tiles
from harness.train import autocast

# A matrix product may round differently when its shape differs.  On a CPU the network therefore always sees this
# many images, the last ones repeated; on a GPU, where no order of summation is promised anyway, whole batches.
CPU_TILE = 64


def label_of(config: RunConfig, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The class of each image: every class in turn, so that any multiple of their number is exactly balanced."""
    return indices % config.task.num_classes


@dataclass(frozen=True)
class Sampled:
    """What images are made from: a trained denoiser, its guide where there is one, and the codec behind it."""

    denoiser: Denoiser
    codec: Codec
    guide: Denoiser | None = None


def sample(config: RunConfig, made_from: Sampled, indices: npt.NDArray[np.int64], precision: str) -> Values:
    """The images of these indices, (N, C, H, W), in [-1, 1] but for the sampler's overshoot.

    With a fixed-step sampler on a CPU, bit for bit the same in any batch.  An adaptive one (dopri5) chooses its steps
    by an error over the whole batch: there an image moves with its companions, within the sampler's tolerances.  On a
    GPU matrix products of different shapes round differently: about 1e-6 relative in float32.
    """
    device = next(made_from.denoiser.parameters()).device
    streams = [generator(config.seed, Stream.SAMPLING, int(index)) for index in indices]
    labels_N = torch.from_numpy(label_of(config, indices)).to(device)
    channels, side = config.latents.shape(config.task)

    def fresh_noise() -> Tensor:
        draws = [stream.standard_normal((channels, side, side), dtype=np.float32) for stream in streams]
        return torch.from_numpy(np.stack(draws)).to(device)

    with torch.no_grad(), autocast(device, precision):
        model = _model(config, made_from, labels_N)
        latents_NChh = draw_samples(config, model, fresh_noise(), fresh_noise).float()
        return made_from.codec.decode(latents_NChh).float().cpu().numpy()


def _model(config: RunConfig, made_from: Sampled, labels_N: Tensor) -> Model:
    """The denoiser with its labels bound, and with guidance where the run has some."""
    denoiser, guide = made_from.denoiser.eval(), (made_from.guide or made_from.denoiser).eval()
    tile = CPU_TILE if labels_N.device.type == "cpu" else len(labels_N)
    against_N = labels_N if made_from.guide else torch.full_like(labels_N, denoiser.null_label or 0)

    def ask(network: Denoiser, y_N: Tensor, *, with_registers: bool = True) -> Model:
        return lambda x, t_N: in_tiles(partial(network, with_registers=with_registers), tile, x, t_N, y_N).float()

    asked = Asked(ask(denoiser, labels_N), ask(guide, against_N), ask(denoiser, labels_N, with_registers=False))
    channels = config.latents.shape(config.task)[0]
    return guided(asked, config.protocol.guidance, config.registers.guidance, own_time(config), channels)


def sample_all(
    config: RunConfig, made_from: Sampled, folder: Path, precision: str, on_part: Callable[[], None]
) -> Pixels | None:
    """All images of the protocol as 8 bits, (N, C, H, W); None where the network gave values that are no numbers.

    Each batch is kept in `folder` as soon as it is made, so that an interrupted sampling goes on; then `on_part` is
    called.
    """
    total, size = config.protocol.num_images, config.execution.sampling_batch
    if folder.exists():
        sweep_parts(folder)
    parts = []
    with Progress("sampling", total) as progress:
        for start in range(0, total, size):
            stop = min(start + size, total)
            file = folder / f"{start:06d}-{stop:06d}.npy"
            if not file.exists():
                values = sample(config, made_from, np.arange(start, stop), precision)
                if not np.isfinite(values).all():
                    return None
                write_array(file, to_uint8(values, config.protocol.uint8_rule))
                on_part()
            parts.append(read_array(file, mapped=True))
            progress.advance(stop - start)
    return np.concatenate(parts)
