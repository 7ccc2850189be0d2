"""Look for outlier tokens in a pipeline's transformer while it samples.

By the definitions of harness.metrics.outliers: norms of the patches that a block puts out, per image first.  The rows
without the prompt of classifier-free guidance are left out, and so are text tokens.
"""

# N images, L patches, D width, R registers

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.metrics.outliers import StatisticsOfPlace
from harness.metrics.token_norms import relative_norms
from harness.outlier_records import OutlierStatistics, worst_of
from harness.pipelines.opening import OpenPipeline
from harness.pipelines.structure import Block, Structure, count_patches, inputs_of

SHOWN_IMAGES = 6
DECIMALS = 4

_Place = tuple[int, float]


@dataclass(frozen=True)
class WorstPlace:
    """The norms of the patches of the first images where the largest norm was found, (n, L), over their median."""

    statistics: OutlierStatistics
    patches: Tensor


class Watch:
    """Sees the blocks of a transformer at the noise levels that are asked for, one image after another."""

    def __init__(self, pipeline: OpenPipeline, structure: Structure, levels: Sequence[float]) -> None:
        self._pipeline, self._structure, self._levels = pipeline, structure, levels
        self._places: dict[_Place, StatisticsOfPlace] = {}
        self._norms: dict[_Place, list[Tensor]] = {}
        self._call = _Call()

    @contextmanager
    def image(self) -> Iterator[None]:
        """Within this one image is made, and seen."""
        self._call = _Call()
        with ExitStack() as hooks:
            transformer = self._pipeline.transformer
            hooks.callback(transformer.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
            for index, block in enumerate(self._structure.blocks):
                hooks.callback(block.module.register_forward_hook(self._seeing(index, block)).remove)
            yield

    def statistics(self) -> tuple[OutlierStatistics, ...]:
        """Of every block at every level, over all images; a block whose norms are no numbers has none."""
        places = sorted(self._places, key=lambda place: (place[1], place[0]))
        found = [self._places[block, time].statistics(block, time) for block, time in places]
        return tuple(filter(None, found))

    def worst(self) -> WorstPlace | None:
        """The norms of the first images at the worst place; None where no block has norms that are numbers."""
        worst = worst_of(self.statistics())
        return None if worst is None else WorstPlace(worst, torch.cat(self._norms[worst.block, worst.time]))

    def _enter(self, transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note at which step this call is: of several calls at one step the first is looked at."""
        inputs = inputs_of(transformer, args, kwargs)
        timestep, before = _timestep(transformer, inputs), self._call
        if timestep == before.timestep:
            self._call = replace(before, time=None)
            return
        times = before.times
        if before.step < 0:
            times = chosen_steps(times_of(self._pipeline.diffusers.scheduler), self._levels)
        step = before.step + 1
        self._call = _Call(step, timestep, times, times.get(step), count_patches(transformer, inputs))

    def _seeing(self, index: int, block: Block) -> Callable[..., None]:
        def see(_: nn.Module, __: Any, output: Any) -> None:
            if self._call.time is not None:
                row = self._structure.row
                patches_NLD = block.patches(output, self._call.patches)[row : row + 1].float()
                self._add((index, self._call.time), patches_NLD)

        return see

    def _add(self, place: _Place, patches_NLD: Tensor) -> None:
        no_registers_NRD = patches_NLD[:, :0]
        self._places.setdefault(place, StatisticsOfPlace()).add(patches_NLD, no_registers_NRD)
        norms = self._norms.setdefault(place, [])
        if len(norms) < SHOWN_IMAGES:
            norms.append(relative_norms(patches_NLD)[0].cpu())


@dataclass(frozen=True)
class _Call:
    """A call of the transformer in the making of an image: its step, and the time t where it is one to look at."""

    step: int = -1
    timestep: float | None = None
    times: Mapping[int, float] = field(default_factory=dict)
    time: float | None = None
    patches: int = 0


def times_of(scheduler: Any) -> list[float]:
    """The time of every step of a sampling that has begun, t = 0 noise, 1 data.

    A flow's timestep is its share of noise; a diffusion's is the number of its original step, as for DiT here.
    Raises UserError for a scheduler that counts in another way.
    """
    config, timesteps = scheduler.config, scheduler.timesteps.detach().double().cpu()
    distinct = torch.unique_consecutive(timesteps)
    count = config.get("num_train_timesteps")
    is_diffusion = hasattr(scheduler, "alphas_cumprod") and not (
        config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    )
    shares = distinct / (count - 1 if is_diffusion else count) if count else distinct
    is_known = bool(count) and bool(((shares >= 0) & (shares <= 1)).all()) and float(shares[0]) >= float(shares[-1])
    if not is_known or (not is_diffusion and not _are_sigmas(scheduler, timesteps / (count or 1))):
        raise UserError(
            f"the noise levels of {type(scheduler).__name__} are not known: timesteps from {count} down to 0, of a "
            f"diffusion or as shares of noise, were looked for, and found were {timesteps[:3].tolist()} ...",
            "its outliers cannot be probed: set pipeline.probe=false to sample and score it all the same",
        )
    times: list[float] = (1 - shares).tolist()
    return times


def chosen_steps(times: Sequence[float], levels: Sequence[float]) -> dict[int, float]:
    """The steps nearest to the levels, with their own times; where steps are few, one may be nearest to several."""
    nearest = {int(np.abs(np.asarray(times) - level).argmin()) for level in levels}
    return {step: round(times[step], DECIMALS) for step in sorted(nearest)}


def _are_sigmas(scheduler: Any, shares: Tensor) -> bool:
    sigmas = getattr(scheduler, "sigmas", None)
    if not isinstance(sigmas, Tensor) or len(sigmas) < len(shares):
        return False
    return torch.allclose(sigmas.detach().double().cpu()[: len(shares)], shares, atol=2 / 1000)


def _timestep(transformer: nn.Module, inputs: dict[str, Any]) -> float:
    timestep = inputs.get("timestep")
    if timestep is None:
        raise UserError(
            f"{type(transformer).__name__} is not told the time as `timestep`: found were {', '.join(inputs)}",
            "its outliers cannot be probed: set pipeline.probe=false to sample and score it all the same",
        )
    return float(torch.as_tensor(timestep).flatten()[-1])
