"""Make images from a trained denoiser: image i depends on (seed, i), not on the batch it was made in."""

# N batch, C channels, H height, W width

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.codec import Codec
from harness.denoiser import Denoiser
from harness.distributed import ALONE, World
from harness.files import read_array, sweep_parts, write_array
from harness.guidance import Asked, guided, scale_at
from harness.images import Pixels, Values, to_uint8
from harness.objective import Model, draw_samples, is_adaptive, own_time, times_asked
from harness.progress import Progress
from harness.randomness import Stream, generator
from harness.replicas import compiled
from harness.spec import RunConfig
from harness.texts import asked_for
from harness.tiles import in_tiles
from harness.train import autocast

# A matrix product may round differently when its shape differs.  On a CPU the network therefore always sees this
# many images, the last ones repeated; on a GPU, where no order of summation is promised anyway, whole batches.
CPU_TILE = 64


def label_of(config: RunConfig, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The class of each image, every one in turn, or the number of its prompt: exactly balanced."""
    if config.task.prompts:
        return asked_for(config.task, config.protocol.num_images, indices)
    return indices % config.task.num_classes


@dataclass(frozen=True)
class Parts:
    """Images on disk, 8 bits each: files of `size` images, but for the last one."""

    files: tuple[Path, ...]
    size: int

    def whole(self) -> Pixels:
        """All of them, (N, C, H, W)."""
        return np.concatenate([read_array(file, mapped=True) for file in self.files])

    def of(self, indices: npt.NDArray[np.int64]) -> Pixels:
        """Those of these indices, in their order."""
        return np.stack([read_array(self.files[i // self.size], mapped=True)[i % self.size] for i in indices])


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


def sample_all(
    config: RunConfig,
    made_from: Sampled,
    folder: Path,
    precision: str,
    on_part: Callable[[], None],
    *,
    world: World = ALONE,
) -> Parts | None:
    """All images of the protocol, in `folder`; None where the network gave values that are no numbers.

    Each batch is kept as soon as it is made, so that an interrupted sampling goes on; then `on_part` is called.
    Processes share the batches, and each shows how far its own share is.
    """
    total, size = config.protocol.num_images, config.execution.sampling_batch
    parts = [range(start, min(start + size, total)) for start in range(0, total, size)]
    missing = world.by_first(lambda: _missing(parts, folder))
    mine = [missing[index] for index in world.share(len(missing))]
    done = len(world.share(total - sum(map(len, missing))))
    is_finite = True
    with Progress("sampling", done + sum(map(len, mine)), done) as progress:
        for part in mine:
            values = sample(config, made_from, np.arange(part.start, part.stop), precision)
            is_finite = bool(np.isfinite(values).all())
            if not is_finite:
                break
            write_array(folder / _name(part), to_uint8(values, config.protocol.uint8_rule))
            on_part()
            progress.advance(len(part))
    return None if world.any(not is_finite) else Parts(tuple(folder / _name(part) for part in parts), size)


def _model(config: RunConfig, made_from: Sampled, labels_N: Tensor) -> Model:
    """The denoiser with its labels bound, and with guidance where the run has some."""
    denoiser, guide = made_from.denoiser.eval(), (made_from.guide or made_from.denoiser).eval()
    tile = _tile(config, labels_N)
    against_N = labels_N if made_from.guide else torch.full_like(labels_N, denoiser.null_label or 0)

    def ask(network: Denoiser, y_N: Tensor, *, with_registers: bool = True) -> Model:
        called = compiled(network) if config.execution.compiled else network
        return lambda x, t_N: in_tiles(partial(called, with_registers=with_registers), tile, x, t_N, y_N).float()

    asked = Asked(ask(denoiser, labels_N), ask(guide, against_N), ask(denoiser, labels_N, with_registers=False))
    channels, axis = config.latents.shape(config.task)[0], own_time(config)
    return guided(asked, config.protocol.guidance, config.registers.guidance, axis, channels, scales=_scales(config))


def _scales(config: RunConfig) -> Iterable[float]:
    """The guidance scales of all calls in their order; none where an adaptive solver decides when it asks."""
    guidance, axis = config.protocol.guidance, own_time(config)
    if guidance.scale == guidance.outside:
        return repeat(float(scale_at(guidance, torch.zeros(1), axis)))
    return () if is_adaptive(config.sampler) else scale_at(guidance, times_asked(config), axis).tolist()


def _tile(config: RunConfig, labels_N: Tensor) -> int:
    """How many images the network sees at once: for a compiled one as many in the last batch as in all others."""
    if labels_N.device.type == "cpu":
        return CPU_TILE
    whole = min(config.execution.sampling_batch, config.protocol.num_images)
    return max(whole, len(labels_N)) if config.execution.compiled else len(labels_N)


def _missing(parts: list[range], folder: Path) -> list[range]:
    """The parts that are still to be made.

    The folder is listed: to ask for a file that another machine is about to write may keep it unseen for seconds.
    """
    if not folder.exists():
        return parts
    sweep_parts(folder)
    known = {file.name for file in folder.iterdir()}
    return [part for part in parts if _name(part) not in known]


def _name(part: range) -> str:
    return f"{part.start:06d}-{part.stop:06d}.npy"
