"""Sample a flow by its reverse SDE: the same marginals as the ODE, with noise added and taken away on the way.

Official code: willisma/SiT at 947f95b, whose numbers these functions reproduce.
"""

# N batch, x a state (N, ...), t_N times in [0, 1], 0 noise

import math
from collections.abc import Callable, Iterator

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
    solver = _Solver(flow, model, sampler, interval.grid(sampler.points, noise))
    x = noise
    for time in solver.grid[:-1]:
        x = solver.advance(x, time.expand(len(x)), fresh_noise())
        yield x
    yield solver.last_step(x, torch.full((len(x),), interval.end, device=x.device))


def sde_interval(flow: Flow, sampler: SdeSampler) -> Interval:
    """The times between which the SDE is solved; the last step covers what is left."""
    epsilon = 0.0 if flow.is_direct else flow.sampling_epsilon
    starts_late = not flow.is_vp and (sampler.diffusion == "sbdm" or flow.prediction != "velocity")
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
    """One model on one grid of equal steps."""

    def __init__(self, flow: Flow, model: Model, sampler: SdeSampler, grid: Tensor) -> None:
        self.flow, self.model, self.sampler, self.grid = flow, model, sampler, grid
        self.step = grid[1] - grid[0]

    def advance(self, x: Tensor, t_N: Tensor, noise: Tensor) -> Tensor:
        """The state one step later."""
        kick = torch.sqrt(2 * self._strength(x, t_N)) * torch.sqrt(self.step) * noise
        if self.sampler.method == "euler":
            return x + self._drift(x, t_N) * self.step + kick
        kicked = x + kick
        first = self._drift(kicked, t_N)
        second = self._drift(kicked + self.step * first, t_N + self.step)
        return kicked + 0.5 * self.step * (first + second)

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
