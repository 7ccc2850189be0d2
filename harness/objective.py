"""What training, sampling and probing ask of an objective, whichever it is."""

# N batch, C channels, H height, W width

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from harness.ddpm import Ddpm
from harness.flow import Flow
from harness.respacing import NUM_STEPS
from harness.sde import sample_sde
from harness.spec import (
    DdimSampler,
    DdpmObjective,
    DdpmSampler,
    FlowObjective,
    OdeSampler,
    RunConfig,
    Sampler,
    SdeSampler,
)

Model = Callable[[Tensor, Tensor], Tensor]
State = TypeVar("State")


class Objective(Protocol):
    """A loss over noised data.  A `model` maps x (N, C, H, W) and its own time (N,) to its prediction."""

    def training_times(self, uniform_N: Tensor) -> Tensor:
        """Times, as `loss` takes them, for draws from [0, 1)."""

    def loss(
        self, model: Model, data: Tensor, noise: Tensor, times_N: Tensor, element_weight: Tensor | float, /
    ) -> Tensor:
        """The loss of each sample, (N,), of elements weighted by `element_weight`."""

    def at_time(self, data: Tensor, noise: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """(x_t, the family's time) at one time of the common axis: 0 noise, 1 data."""


def objective_of(config: RunConfig) -> Objective:
    """The objective that a run is trained with."""
    match config.objective:
        case FlowObjective():
            return Flow(config.objective)
        case DdpmObjective():
            return Ddpm(config.objective)


def draw_samples(config: RunConfig, model: Model, noise: Tensor, fresh_noise: Callable[[], Tensor]) -> Tensor:
    """From noise (N, C, H, W) to data, by the run's sampler.  `fresh_noise` is called once for each random step."""
    objective, sampler = config.objective, config.sampler
    if isinstance(objective, FlowObjective):
        flow, noise = Flow(objective), noise * objective.noise_scale
        if isinstance(sampler, OdeSampler):
            return flow.sample_ode(model, noise, sampler)
        assert isinstance(sampler, SdeSampler), sampler
        return _last(sample_sde(flow, model, noise, sampler, fresh_noise))
    assert isinstance(sampler, DdpmSampler | DdimSampler), sampler
    ddpm = Ddpm(objective, sampler.respacing)
    if isinstance(sampler, DdpmSampler):
        return _last(ddpm.sample_ddpm(model, noise, sampler, fresh_noise))[0]
    return _last(ddpm.sample_ddim(model, noise, sampler, fresh_noise))[0]


def own_time(config: RunConfig) -> Callable[[float], float]:
    """From a common time (0 noise, 1 data) to the time that the run's network is given."""
    objective = config.objective
    if isinstance(objective, DdpmObjective):
        return lambda common: (1 - common) * (NUM_STEPS - 1)
    return (lambda common: 1 - common) if objective.toward_noise else (lambda common: common)


def times_asked(config: RunConfig) -> Tensor:
    """The network's own times, (calls,) in float32, in the order in which the run's sampler asks for them.

    Found by sampling in the host's memory, with a network that does nothing: only where steps are fixed.
    """
    assert not is_adaptive(config.sampler), "the times of an adaptive solver depend on what the network says"
    learned = isinstance(config.objective, DdpmObjective) and config.objective.variance == "learned_range"
    times: list[Tensor] = []

    def ask(x: Tensor, t_N: Tensor) -> Tensor:
        times.append(t_N[0].float())
        return torch.zeros_like(torch.cat([x, x], dim=1) if learned else x)

    draw_samples(config, ask, torch.zeros(1, 1, 1, 1), lambda: torch.zeros(1, 1, 1, 1))
    return torch.stack(times)


def is_adaptive(sampler: Sampler) -> bool:
    """Whether the solver picks its steps by an error over the whole batch, so that images depend on companions."""
    return isinstance(sampler, OdeSampler) and sampler.method == "dopri5"


def _last(states: Iterator[State]) -> State:
    return deque(states, maxlen=1).pop()
