"""Sample a flow by its reverse SDE: the same marginals as the ODE, with noise added and taken away on the way.

Official code: willisma/SiT at 947f95b, whose numbers these functions reproduce.
"""

# N batch, x a state (N, ...), t_N times in [0, 1], 0 noise

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from harness.flow import Flow, Interval, Model, spread
from harness.spec import SdeSampler

Noise = Callable[[], Tensor]


def sample_sde(flow: Flow, model: Model, noise: Tensor, sampler: SdeSampler, fresh_noise: Noise) -> Iterator[Tensor]:
    """Solve the SDE from noise to data: the state after each of `points` - 1 steps, then after the last step.

    `fresh_noise` is called once a step, for standard normal draws of the state's shape.
    """
    interval = sde_interval(flow, sampler)
    solver = _Solver(flow, model, sampler)
    x = noise
    for time, later in pairwise(flow.grid(interval, sampler.points, noise)):
        x = solver.advance(x, time.expand(len(x)), later - time, fresh_noise())
        yield x
    yield solver.last_step(x, torch.full((len(x),), interval.end, device=x.device))


def sde_interval(flow: Flow, sampler: SdeSampler) -> Interval:
    """The times between which the SDE is solved; the last step covers what is left."""
    epsilon = 0.0 if flow.is_direct else flow.sampling_epsilon
    starts_late = not flow.is_vp and (sampler.diffusion == "sbdm" or flow.prediction in ("noise", "score"))
    left = sampler.last_step_size if sampler.last_step != "none" else 0.0
    return Interval(epsilon if starts_late else 0.0, 1 - (left or epsilon))


def diffusion(flow: Flow, sampler: SdeSampler, x: Tensor, t: Tensor) -> Tensor:
    """W(x, t), the strength of the noise that the SDE adds: half the squared coefficient of dB."""
    norm = sampler.diffusion_norm
    match sampler.diffusion:
        case "sigma":
            return norm * flow.path.sigma(t)
        case "linear":
            return norm * (1 - t)
        case "decreasing":
            return 0.25 * (norm * torch.cos(math.pi * t) + 1) ** 2
        case "increasing-decreasing":
            return norm * torch.sin(math.pi * t) ** 2
        case "sbdm":
            return norm * flow.path.drift(x, t)[1]
        case "constant":
            return norm * torch.ones_like(t)


class _Solver:
    """One model under one sampler."""

    def __init__(self, flow: Flow, model: Model, sampler: SdeSampler) -> None:
        self.flow, self.model, self.sampler = flow, model, sampler

    def advance(self, x: Tensor, t_N: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """The state one step later."""
        kick = torch.sqrt(2 * self._strength(x, t_N)) * torch.sqrt(step) * noise
        if self.sampler.method == "euler":
            return x + self._drift(x, t_N) * step + kick
        kicked = x + kick
        first = self._drift(kicked, t_N)
        second = self._drift(kicked + step * first, t_N + step)
        return kicked + 0.5 * step * (first + second)

    def last_step(self, x: Tensor, t_N: Tensor) -> Tensor:
        """From the end of the grid to data, without noise."""
        size = self.sampler.last_step_size
        match self.sampler.last_step:
            case "none":
                return x
            case "mean":
                return x + self._drift(x, t_N) * size
            case "euler":
                return x + self.flow.velocity(self.model, x, t_N) * size
            case "tweedie":
                t = spread(t_N, x)
                alpha, sigma = self.flow.path.alpha(t), self.flow.path.sigma(t)
                return x / alpha + sigma**2 / alpha * self.flow.score(self.model, x, t_N)

    def _strength(self, x: Tensor, t_N: Tensor) -> Tensor:
        return diffusion(self.flow, self.sampler, x, spread(t_N, x))

    def _drift(self, x: Tensor, t_N: Tensor) -> Tensor:
        velocity = self.flow.velocity(self.model, x, t_N)
        return velocity + self._strength(x, t_N) * self.flow.score(self.model, x, t_N)
