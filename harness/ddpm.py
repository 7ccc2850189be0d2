"""DiT's diffusion: a chain of noise steps, the variance learned (IDDPM, arXiv 2102.09672), DDPM and DDIM samplers.

Official code: facebookresearch/DiT at ed81ce2, whose numbers these functions reproduce.  Its step indices count
towards noise (999 is noise); `at_time` translates from the common axis.
"""

# N batch, x a state (N, C, ...), index_N positions in the (respaced) chain, 0 nearest to data

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.respacing import NUM_STEPS, kept_steps
from harness.spec import DdimSampler, DdpmObjective, DdpmSampler

Model = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[], Tensor]
Table = npt.NDArray[np.float64]

NATS_PER_BIT = math.log(2.0)
LEAST_PROBABILITY = 1e-12
OPEN_BEYOND = 0.999


@dataclass(frozen=True)
class Denoised:
    """What the model says of x_{t-1} and of x_0; all of the state's shape."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    data: Tensor


class Ddpm:
    """The chain that a respacing leaves of 1,000 noise steps; coefficients in float64, looked up in float32.

    A `model` maps x (N, C, ...) and the ORIGINAL step index (N,) to noise (N, C, ...), followed on the channel axis
    by as many variance logits where the variance is learned.
    """

    def __init__(self, objective: DdpmObjective, respacing: str = "") -> None:
        self.variance, self.loss_kind = objective.variance, objective.loss
        full = np.cumprod(1.0 - _betas(objective.schedule))
        self.timestep_map = np.array(kept_steps(respacing, NUM_STEPS))
        kept = full[self.timestep_map]
        betas = 1.0 - kept / np.append(1.0, kept[:-1])
        bars = np.cumprod(1.0 - betas)
        before = np.append(1.0, bars[:-1])
        posterior = betas * (1.0 - before) / (1.0 - bars)
        self.betas, self.alphas_cumprod = betas, bars
        self.alphas_cumprod_previous = before
        self.posterior_variance = posterior
        self.posterior_log_variance_clipped = np.log(np.append(posterior[1:2], posterior[1:]))
        self.posterior_mean_coef1 = betas * np.sqrt(before) / (1.0 - bars)
        self.posterior_mean_coef2 = (1.0 - before) * np.sqrt(1.0 - betas) / (1.0 - bars)
        self._original_steps = _Lookup(self.timestep_map)
        self._signal, self._noise = _Lookup(np.sqrt(bars)), _Lookup(np.sqrt(1.0 - bars))
        self._log_noise_variance = _Lookup(np.log(1.0 - bars))
        self._data_of_state, self._data_of_noise = _Lookup(np.sqrt(1.0 / bars)), _Lookup(np.sqrt(1.0 / bars - 1.0))
        self._mean_of_data, self._mean_of_state = map(_Lookup, (self.posterior_mean_coef1, self.posterior_mean_coef2))
        self._log_small, self._log_betas = map(_Lookup, (self.posterior_log_variance_clipped, np.log(betas)))
        self._log_large = _Lookup(np.log(np.append(posterior[1], betas[1:])))

    def __len__(self) -> int:
        return len(self.betas)

    def training_times(self, uniform_N: Tensor) -> Tensor:
        """Chain indices for uniform draws from [0, 1)."""
        return (uniform_N * len(self)).long().clamp(max=len(self) - 1)

    def noised(self, data: Tensor, noise: Tensor, index_N: Tensor) -> Tensor:
        """q(x_t | x_0): sqrt(abar) data + sqrt(1 - abar) noise."""
        return self._signal.at(index_N, data) * data + self._noise.at(index_N, data) * noise

    def loss(
        self, model: Model, data: Tensor, noise: Tensor, index_N: Tensor, element_weight: Tensor | float = 1.0
    ) -> Tensor:
        """The loss of each sample, (N,): the noise's mean square error plus, where learned, the variational term."""
        return self.loss_terms(model, data, noise, index_N, element_weight)["loss"]

    def loss_terms(
        self, model: Model, data: Tensor, noise: Tensor, index_N: Tensor, element_weight: Tensor | float = 1.0
    ) -> dict[str, Tensor]:
        """`loss` with its parts `mse` and, where the variance is learned, `vb` in bits (no factor 1/1000).

        `element_weight` weighs the elements of `mse` alone.
        """
        x = self.noised(data, noise, index_N)
        if self.loss_kind == "kl":
            return {"loss": len(self) * self.variational_bits(model, data, x, index_N, clip_denoised=False)}
        output = model(x, self._original(index_N))
        predicted, logits = self._split(output, x)
        mse = (element_weight * (noise - predicted) ** 2).flatten(1).mean(1)
        if logits is None:
            return {"loss": mse, "mse": mse}
        frozen_mean = torch.cat([predicted.detach(), logits], dim=1)
        vb = self.variational_bits(lambda *_: frozen_mean, data, x, index_N, clip_denoised=False)
        if self.loss_kind == "rescaled_mse":
            vb = vb * len(self) / NUM_STEPS
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def variational_bits(
        self, model: Model, data: Tensor, x: Tensor, index_N: Tensor, *, clip_denoised: bool
    ) -> Tensor:
        """One term of the variational bound, bits per dimension, (N,): a KL, or at index 0 the data's likelihood."""
        mean, log_variance = self.posterior(data, x, index_N)
        guess = self.denoise(model, x, index_N, clip_denoised=clip_denoised)
        divergence = _gaussian_kl(mean, log_variance, guess.mean, guess.log_variance)
        likelihood = -_discretised_log_likelihood(data, guess.mean, 0.5 * guess.log_variance)
        nats = torch.where(index_N == 0, likelihood.flatten(1).mean(1), divergence.flatten(1).mean(1))
        return nats / NATS_PER_BIT

    def prior_bits(self, data: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || N(0, 1)), bits per dimension, (N,)."""
        last_N = torch.full((len(data),), len(self) - 1, device=data.device)
        mean = self._signal.at(last_N, data) * data
        log_variance = self._log_noise_variance.at(last_N, data)
        zero = torch.zeros_like(mean)
        return _gaussian_kl(mean, log_variance, zero, zero).flatten(1).mean(1) / NATS_PER_BIT

    def at_time(self, data: Tensor, noise: Tensor, time: float) -> tuple[Tensor, Tensor]:
        """(x_t, original step) for one time of the common axis (0 noise, 1 data): index round((1 - t) (T - 1))."""
        index_N = torch.full((len(data),), round((1 - time) * (len(self) - 1)), device=data.device)
        return self.noised(data, noise, index_N), self._original(index_N)

    def posterior(self, data: Tensor, x: Tensor, index_N: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log variance) of q(x_{t-1} | x_t, x_0)."""
        mean = self._mean_of_data.at(index_N, x) * data + self._mean_of_state.at(index_N, x) * x
        return mean, self._log_small.at(index_N, x)

    def denoise(self, model: Model, x: Tensor, index_N: Tensor, *, clip_denoised: bool) -> Denoised:
        """p(x_{t-1} | x_t) and the data that it implies."""
        noise, logits = self._split(model(x, self._original(index_N)), x)
        log_variance = self._log_variance(logits, x, index_N)
        data = self._data_of_state.at(index_N, x) * x - self._data_of_noise.at(index_N, x) * noise
        if clip_denoised:
            data = data.clamp(-1, 1)
        mean, _ = self.posterior(data, x, index_N)
        return Denoised(mean, torch.exp(log_variance), log_variance, data)

    def sample_ddpm(
        self, model: Model, noise: Tensor, sampler: DdpmSampler, fresh_noise: Noise
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Ancestral sampling: (state, implied data) after each step.  `fresh_noise` is called once a step."""
        x = noise
        for index in reversed(range(len(self))):
            guess = self.denoise(model, x, _all(index, x), clip_denoised=sampler.clip_denoised)
            kick = torch.exp(0.5 * guess.log_variance) * fresh_noise()
            x = guess.mean + kick if index else guess.mean
            yield x, guess.data

    def sample_ddim(
        self, model: Model, noise: Tensor, sampler: DdimSampler, fresh_noise: Noise
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """DDIM: (state, implied data) after each step; deterministic at eta 0."""
        x = noise
        for index in reversed(range(len(self))):
            index_N = _all(index, x)
            data = self.denoise(model, x, index_N, clip_denoised=sampler.clip_denoised).data
            bar, previous = self.alphas_cumprod[index], self.alphas_cumprod_previous[index]
            implied = (self._data_of_state.at(index_N, x) * x - data) / self._data_of_noise.at(index_N, x)
            sigma = sampler.eta * math.sqrt((1 - previous) / (1 - bar)) * math.sqrt(1 - bar / previous)
            x = data * math.sqrt(previous) + math.sqrt(1 - previous - sigma**2) * implied
            kick = sigma * fresh_noise()
            if index:
                x = x + kick
            yield x, data

    def _original(self, index_N: Tensor) -> Tensor:
        return self._original_steps.on(index_N.device)[index_N]

    def _split(self, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.variance != "learned_range":
            return output, None
        noise, logits = output.chunk(2, dim=1)
        assert noise.shape == x.shape, f"a learned variance doubles the channels: {output.shape} for {x.shape}"
        return noise, logits

    def _log_variance(self, logits: Tensor | None, x: Tensor, index_N: Tensor) -> Tensor:
        least = self._log_small.at(index_N, x)
        if logits is not None:
            share = (logits + 1) / 2
            return share * self._log_betas.at(index_N, x) + (1 - share) * least
        if self.variance == "fixed_small":
            return least.expand_as(x)
        return self._log_large.at(index_N, x).expand_as(x)


class _Lookup:
    """A table that stays on each device where it was looked up once: a copy in every step would be waited for."""

    def __init__(self, table: Table | npt.NDArray[np.int64]) -> None:
        self._table = table
        self._copies: dict[torch.device, Tensor] = {}

    def at(self, index_N: Tensor, like: Tensor) -> Tensor:
        """The float32 entries at (N,), beside a state."""
        return self.on(index_N.device)[index_N].float().view(-1, *[1] * (like.dim() - 1))

    def on(self, device: torch.device) -> Tensor:
        """All entries as they are."""
        if device not in self._copies:
            self._copies[device] = torch.as_tensor(self._table, device=device)
        return self._copies[device]


def _betas(schedule: str) -> Table:
    if schedule == "linear":
        return np.linspace(1e-4, 0.02, NUM_STEPS)
    edges = np.cos((np.arange(NUM_STEPS + 1) / NUM_STEPS + 0.008) / 1.008 * math.pi / 2) ** 2
    capped: Table = np.minimum(1.0 - edges[1:] / edges[:-1], 0.999)
    return capped


def _all(index: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), index, device=x.device)


def _gaussian_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    gap = (mean1 - mean2) ** 2 * torch.exp(-log_variance2)
    return 0.5 * (log_variance2 - log_variance1 + torch.exp(log_variance1 - log_variance2) + gap - 1.0)


def _discretised_log_likelihood(data: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability of 8-bit data in [-1, 1] under a Gaussian, by bins of 2/255, open at both ends."""
    centred, inverse = data - mean, torch.exp(-log_scale)
    upper = _normal_cdf(inverse * (centred + 1.0 / 255.0))
    lower = _normal_cdf(inverse * (centred - 1.0 / 255.0))
    probability = torch.where(data < -OPEN_BEYOND, upper, torch.where(data > OPEN_BEYOND, 1.0 - lower, upper - lower))
    return probability.clamp(min=LEAST_PROBABILITY).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation that the official code uses."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
