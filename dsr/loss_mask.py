"""Leave out of the training loss the patches whose norm is an outlier's, or weigh them by it: DSR's appendix.

DSR masks tokens by the norm that the encoder gives them (`--outlier_token_norm` of its train.py), and finds no gain.
Here the norm is that of the clean data as the denoiser sees it, so that every backbone has one.
"""

# N batch, C channels, H height and width, G patches per side, P patch side

import math
from collections.abc import Callable

import torch
from torch import Tensor

from harness.registers import LossMask

LEAST_WEIGHT, MOST_WEIGHT, LARGEST_LOG = 0.1, 2.0, 10.0
TINY = 1e-12


def element_weights(mask: LossMask, patch_tokens: int) -> Callable[[Tensor, Tensor], Tensor]:
    """From clean data (N, C, H, H) and times (N,), 0 noise, to weights (N, 1, H, H) that are 1 on average."""
    G = math.isqrt(patch_tokens)

    def weigh(data_NCHH: Tensor, times_N: Tensor) -> Tensor:
        P = data_NCHH.shape[-1] // G
        N, C = data_NCHH.shape[:2]
        patches = data_NCHH.view(N, C, G, P, G, P)
        norms_NGG = patches.float().square().sum(dim=(1, 3, 5)).sqrt()
        weights_NGG = token_weights(mask, norms_NGG, 1 - times_N)
        return weights_NGG.repeat_interleave(P, 1).repeat_interleave(P, 2)[:, None]

    return weigh


def token_weights(mask: LossMask, norms_NGG: Tensor, noise_N: Tensor) -> Tensor:
    """The weight of each token, (N, G, G): 0 where it is masked, and 1 on average over the batch.

    `noise_N` counts time from data to noise, as DSR does.
    """
    median_N11 = norms_NGG.flatten(1).median(dim=1).values[:, None, None]
    unit = median_N11 if mask.unit == "median" else 1.0
    weights_NGG = (norms_NGG <= mask.above * unit).float()
    if mask.time_shift is not None:
        weights_NGG = weights_NGG * _shifted(mask, norms_NGG / median_N11, noise_N[:, None, None])
    return weights_NGG / (weights_NGG.mean() + TINY)


def _shifted(mask: LossMask, relative_NGG: Tensor, noise_N11: Tensor) -> Tensor:
    """J(S alpha) / J(S), between 0.1 and 2: how dense times are there that were shifted by S alpha and not by S."""
    assert mask.time_shift is not None, "no shift"
    own_NGG, common = mask.time_shift * relative_NGG, torch.as_tensor(mask.time_shift)
    weights_NGG = _density(own_NGG, noise_N11) / _density(common, noise_N11)
    if mask.logit_normal:
        ratio_NGG = _log_logit_normal(_unshifted(own_NGG, noise_N11)) - _log_logit_normal(_unshifted(common, noise_N11))
        weights_NGG = weights_NGG * ratio_NGG.clamp(-LARGEST_LOG, LARGEST_LOG).exp()
    return weights_NGG.clamp(LEAST_WEIGHT, MOST_WEIGHT)


def _density(shift: Tensor, times: Tensor) -> Tensor:
    """J(a) = a / (a - (a - 1) t)^2: the derivative of `_unshifted`."""
    return shift / (shift - (shift - 1) * times) ** 2


def _unshifted(shift: Tensor, times: Tensor) -> Tensor:
    """The time that a shift by a moved to t: t / (a - (a - 1) t)."""
    return times / (shift - (shift - 1) * times)


def _log_logit_normal(times: Tensor) -> Tensor:
    """The logarithm of the density of sigmoid(n), n standard normal, but for a constant."""
    logit = torch.logit(times)
    return -(logit**2) / 2 - torch.log(times * (1 - times))
