"""Flows between noise (t = 0) and data (t = 1): interpolants, predictions, losses and solvers (SiT, arXiv 2401.08740).

Official code: willisma/SiT at 947f95b, LTH14/JiT at cbc743a, bytetriper/RAE at a4d18c4 and a-little-hoof/DSR at
d9ceec1, whose numbers these functions reproduce.
"""

# N batch, x a state (N, ...), t_N times in [0, 1]

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torchdiffeq import odeint

from harness.spec import FlowObjective, OdeSampler

Model = Callable[[Tensor, Tensor], Tensor]

TORCHDIFFEQ_NAMES = {"heun": "heun2"}

# RAE trains and samples a velocity on [0, 0.999] of its own time.
RAE_END = 1e-3


class Path(Protocol):
    """x_t = alpha(t) data + sigma(t) noise, with derivatives in t; every method maps times to times' shape."""

    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def d_alpha(self, t: Tensor) -> Tensor: ...
    def d_sigma(self, t: Tensor) -> Tensor: ...

    def log_slope(self, t: Tensor) -> Tensor:
        """d alpha / alpha, in closed form."""

    def drift(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, variance) of the reverse-time decomposition: velocity = variance score - mean."""


class _ClosedDrift:
    """The decomposition that holds for every differentiable path."""

    def drift(self: Path, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        slope, sigma = self.log_slope(t), self.sigma(t)
        return -slope * x, slope * sigma**2 - sigma * self.d_sigma(t)


class LinearPath(_ClosedDrift):
    """Straight lines from noise to data."""

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def log_slope(self, t: Tensor) -> Tensor:
        return 1 / t


class GvpPath(_ClosedDrift):
    """The generalised variance-preserving path: a quarter circle."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(t * math.pi / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.cos(t * math.pi / 2)

    def d_alpha(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.cos(t * math.pi / 2)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(t * math.pi / 2)

    def log_slope(self, t: Tensor) -> Tensor:
        return math.pi / (2 * torch.tan(t * math.pi / 2))


class VpPath:
    """The variance-preserving diffusion with beta from 0.1 to 20, as an interpolant."""

    least, greatest = 0.1, 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * (1 - t) ** 2 * (self.greatest - self.least) - 0.5 * (1 - t) * self.least

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(1 - torch.exp(2 * self._log_alpha(t)))

    def d_alpha(self, t: Tensor) -> Tensor:
        return self.alpha(t) * self.log_slope(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.exp(2 * self._log_alpha(t)) * 2 * self.log_slope(t) / (-2 * self.sigma(t))

    def log_slope(self, t: Tensor) -> Tensor:
        return 0.5 * (1 - t) * (self.greatest - self.least) + 0.5 * self.least

    def drift(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.least + (1 - t) * (self.greatest - self.least)
        return -0.5 * beta * x, beta / 2


PATHS: dict[str, Path] = {"linear": LinearPath(), "gvp": GvpPath(), "vp": VpPath()}


@dataclass(frozen=True)
class Interval:
    """The times at which a model may be asked: `start` is nearer to noise."""

    start: float
    end: float

    def at(self, uniform_N: Tensor) -> Tensor:
        """Times for draws from [0, 1)."""
        return uniform_N * (self.end - self.start) + self.start


class Flow:
    """One interpolant with one prediction: its training loss, its velocity and score, its samplers.

    A `model` maps x (N, ...) and the network's own time (N,) to a prediction of x's shape; everything else here is in
    the common time, 0 noise and 1 data.
    """

    def __init__(self, objective: FlowObjective) -> None:
        self.objective = objective
        self.path = PATHS[objective.path]
        self.prediction = objective.prediction
        self.is_vp = objective.path == "vp"
        self.is_direct = objective.is_direct
        self.training_epsilon = objective.training_epsilon or (1e-5 if self.is_vp else 1e-3)
        self.sampling_epsilon = objective.sampling_epsilon or 1e-3

    def ask(self, model: Model, x: Tensor, t_N: Tensor) -> Tensor:
        """The network's prediction at a common time; a velocity points from noise to data."""
        if not self.objective.toward_noise:
            return model(x, t_N)
        predicted = model(x, 1 - t_N)
        return -predicted if self.prediction == "velocity" else predicted

    def own_times(self, t_N: Tensor) -> Tensor:
        """Common times as the network counts them."""
        return 1 - t_N if self.objective.toward_noise else t_N

    def training_interval(self) -> Interval:
        """In the network's own time: [0, 1], or short of the ends at which the formulas diverge."""
        return self._interval(self.training_epsilon)

    def training_times(self, uniform_N: Tensor) -> Tensor:
        """Common training times for uniform draws from [0, 1)."""
        times_N = self._distributed(uniform_N)
        return self._shifted(self.own_times(times_N))

    def interpolate(self, data: Tensor, noise: Tensor, t_N: Tensor) -> Tensor:
        """x_t."""
        t = spread(t_N, data)
        return self.path.alpha(t) * data + self.path.sigma(t) * noise

    def target_velocity(self, data: Tensor, noise: Tensor, t_N: Tensor) -> Tensor:
        """d x_t / d t."""
        t = spread(t_N, data)
        return self.path.d_alpha(t) * data + self.path.d_sigma(t) * noise

    def loss(
        self, model: Model, data: Tensor, noise: Tensor, t_N: Tensor, element_weight: Tensor | float = 1.0
    ) -> Tensor:
        """The loss of each sample, (N,): the mean over all but the batch, of elements weighted by `element_weight`."""
        noise = noise * self.objective.noise_scale
        x = self.interpolate(data, noise, t_N)
        predicted = self.ask(model, x, t_N)
        t = spread(t_N, data)
        weight: Tensor | float
        match self.prediction:
            case "velocity":
                error, weight = predicted - self.target_velocity(data, noise, t_N), 1.0
            case "data" if self.objective.clamped_target:
                error, weight = (predicted - data) / self._divisor(t), 1.0
            case "data":
                error, weight = (predicted - x) / self._divisor(t) - self.target_velocity(data, noise, t_N), 1.0
            case "noise":
                error, weight = predicted - noise, self._weight(data, t)
            case "score":
                error, weight = predicted * self.path.sigma(t) + noise, self._weight(data, t)
        return (weight * element_weight * error**2).flatten(1).mean(1)

    def at_time(self, data: Tensor, noise: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """(x_t, the network's own time, (N,)) for one common time, for probes."""
        t_N = torch.full((len(data),), time, device=data.device)
        return self.interpolate(data, noise * self.objective.noise_scale, t_N), self.own_times(t_N)

    def velocity(self, model: Model, x: Tensor, t_N: Tensor) -> Tensor:
        """d x / d t of the probability flow."""
        predicted, t = self.ask(model, x, t_N), spread(t_N, x)
        match self.prediction:
            case "velocity":
                return predicted
            case "data":
                return (self._clipped(predicted) - x) / self._divisor(t)
            case "score":
                return self.velocity_from_score(predicted, x, t)
            case "noise":
                return self.velocity_from_score(predicted / -self.path.sigma(t), x, t)

    def score(self, model: Model, x: Tensor, t_N: Tensor) -> Tensor:
        """The gradient of the log density at time t."""
        predicted, t = self.ask(model, x, t_N), spread(t_N, x)
        match self.prediction:
            case "score":
                return predicted
            case "noise":
                return predicted / -self.path.sigma(t)
            case "data":
                return -(x - self.path.alpha(t) * predicted) / self.path.sigma(t) ** 2
            case "velocity":
                return self.score_from_velocity(predicted, x, t)

    def velocity_from_score(self, score: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """velocity = drift variance * score - drift mean."""
        mean, variance = self.path.drift(x, t)
        return variance * score - mean

    def score_from_velocity(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The inverse of `velocity_from_score`."""
        ratio, sigma, d_sigma = self._ratio(t)
        return (ratio * velocity - x) / (sigma**2 - ratio * d_sigma * sigma)

    def noise_from_velocity(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The noise in x_t."""
        ratio, sigma, d_sigma = self._ratio(t)
        return (ratio * velocity - x) / (ratio * d_sigma - sigma)

    def ode_interval(self, *, reverse: bool = False) -> Interval:
        """The times between which the ODE is solved, before the time shift."""
        interval = self._interval(self.sampling_epsilon)
        return Interval(1 - interval.start, 1 - interval.end) if reverse else interval

    def grid(self, interval: Interval, points: int, like: Tensor) -> Tensor:
        """`points` common times from start to end, moved by the time shift."""
        times = torch.linspace(interval.start, interval.end, points, device=like.device)
        return self._shifted(times)

    def sample_ode(
        self, model: Model, noise: Tensor, sampler: OdeSampler, *, trajectory: bool = False, reverse: bool = False
    ) -> Tensor:
        """Solve dx/dt = velocity from noise to data: the sample, or with `trajectory` all grid points, first axis.

        `reverse` starts from data.  Adaptive methods choose their steps by an error over the whole batch, so there an
        image depends, within the tolerances, on its companions; where their steps shrink to nothing the sample is NaN.
        """
        grid = self.grid(self.ode_interval(reverse=reverse), sampler.points, noise)

        def slope(t: Tensor, x: Tensor) -> Tensor:
            return self.velocity(model, x, t.expand(len(x)))

        if sampler.method == "heun-euler":
            steps = heun_then_euler(slope, noise, grid)
            return torch.stack(list(steps)) if trajectory else deque(steps, maxlen=1).pop()
        method = TORCHDIFFEQ_NAMES.get(sampler.method, sampler.method)
        try:
            states: Tensor = odeint(
                slope,
                noise,
                grid if trajectory or method == "dopri5" else grid[[0, -1]],
                method=method,
                atol=sampler.absolute_tolerance,
                rtol=sampler.relative_tolerance,
                options=None if method == "dopri5" else {"grid_constructor": lambda *_: grid},
            )
        except AssertionError as error:
            if "underflow in dt" not in str(error):
                raise
            return torch.full_like(noise, torch.nan)
        return states if trajectory else states[-1]

    def log_likelihood(
        self, model: Model, data: Tensor, sampler: OdeSampler, signs: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(log p(data) in nats, (N,); the latent z), by Hutchinson's estimate along the ODE from data to noise.

        `signs` gives a fresh tensor of -1 and 1 of the data's shape at every evaluation.
        """

        def backward(s: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            x, probe = state[0].detach().requires_grad_(), signs()
            with torch.enable_grad():
                velocity = self.velocity(model, x, (1 - s).expand(len(x)))
                (pulled,) = torch.autograd.grad((velocity * probe).sum(), x)
            return -velocity.detach(), (pulled * probe).flatten(1).sum(1)

        grid = self.grid(self.ode_interval(), sampler.points, data)
        states, divergence = odeint(
            backward,
            (data, torch.zeros(len(data), device=data.device)),
            grid,
            method=TORCHDIFFEQ_NAMES.get(sampler.method, sampler.method),
            atol=sampler.absolute_tolerance,
            rtol=sampler.relative_tolerance,
        )
        z = states[-1]
        gaussian = -0.5 * (z[0].numel() * math.log(2 * math.pi) + (z**2).flatten(1).sum(1))
        return gaussian - divergence[-1], z

    def _interval(self, epsilon: float) -> Interval:
        if self.is_direct:
            short_by = RAE_END if self.objective.toward_noise and self.prediction == "velocity" else 0.0
            return Interval(0.0, 1 - short_by)
        return Interval(0.0 if self.is_vp else epsilon, 1 - epsilon)

    def _distributed(self, uniform_N: Tensor) -> Tensor:
        """Own times: uniform, or logit-normal, cut to the training interval by the inverse of its distribution."""
        interval = self.training_interval()
        if self.objective.time_distribution == "uniform":
            return interval.at(uniform_N)
        mean, (low, high) = self._time_mean, self._normal_ends
        normal_N = torch.special.ndtri(low + (high - low) * uniform_N.double())
        times_N = torch.sigmoid(mean + self.objective.time_std * normal_N)
        return times_N.clamp(interval.start, interval.end).to(uniform_N.dtype)

    @property
    def _time_mean(self) -> float:
        """Of a logit-normal time, as the network counts it."""
        return -self.objective.time_mean if self.objective.toward_noise else self.objective.time_mean

    @cached_property
    def _normal_ends(self) -> tuple[float, float]:
        """How much of a normal distribution lies below either end of the training interval.

        Numbers of the host: made on a GPU, they would be waited for in every step.
        """
        interval = self.training_interval()
        ends = torch.tensor([interval.start, interval.end], dtype=torch.float64)
        low, high = torch.special.ndtr((torch.logit(ends) - self._time_mean) / self.objective.time_std).tolist()
        return low, high

    def _shifted(self, t: Tensor) -> Tensor:
        """Common times moved towards noise: a s / (1 + (a - 1) s) of the noise's share s = 1 - t."""
        a = self.objective.time_shift
        if a == 1:
            return t
        share = 1 - t
        return 1 - a * share / (1 + (a - 1) * share)

    def _clipped(self, data: Tensor) -> Tensor:
        most = self.objective.clip_prediction
        return data if most is None else data.clamp(-most, most)

    def _divisor(self, t: Tensor) -> Tensor:
        return (1 - t).clamp(min=self.objective.least_divisor)

    def _weight(self, data: Tensor, t: Tensor) -> Tensor | float:
        if self.objective.loss_weight == "none":
            return 1.0
        variance, sigma = self.path.drift(data, t)[1], self.path.sigma(t)
        return (variance / sigma) ** 2 if self.objective.loss_weight == "velocity" else variance / sigma**2

    def _ratio(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 / self.path.log_slope(t), self.path.sigma(t), self.path.d_sigma(t)


def spread(t_N: Tensor, like: Tensor) -> Tensor:
    """(N,) to (N, 1, ...) beside a state."""
    return t_N.view(-1, *[1] * (like.dim() - 1))


def heun_then_euler(slope: Model, x: Tensor, grid: Tensor) -> Iterator[Tensor]:
    """JiT's solver: the state at each point of the grid, by Heun's steps and, in the last interval, Euler's."""
    yield x
    for index, (t, later) in enumerate(pairwise(grid)):
        first = slope(t, x)
        if index < len(grid) - 2:
            second = slope(later, x + (later - t) * first)
            x = x + (later - t) * 0.5 * (first + second)
        else:
            x = x + (later - t) * first
        yield x
