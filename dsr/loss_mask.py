"""Leave out of the training loss the patches whose norm is an outlier's: the control of DSR's appendix.

DSR masks tokens by the norm that the encoder gives them (`--outlier_token_norm` of its train.py), and finds no gain.
Here the norm is that of the clean data as the denoiser sees it, so that every backbone has one.
"""

# N batch, C channels, H height and width, G patches per side, P patch side

import math
from collections.abc import Callable

import torch
from torch import Tensor

from harness.registers import LossMask


def element_weights(mask: LossMask, patch_tokens: int) -> Callable[[Tensor], Tensor]:
    """From clean data (N, C, H, H) to weights (N, 1, H, H): 0 where masked, and 1 on average over the batch."""
    G = math.isqrt(patch_tokens)

    def weigh(data_NCHH: Tensor) -> Tensor:
        P = data_NCHH.shape[-1] // G
        N, C = data_NCHH.shape[:2]
        patches = data_NCHH.view(N, C, G, P, G, P)
        norms_NGG = patches.float().square().sum(dim=(1, 3, 5)).sqrt()
        unit = norms_NGG.flatten(1).median(dim=1).values[:, None, None] if mask.unit == "median" else 1.0
        kept_NGG = (norms_NGG <= mask.above * unit).float()
        weights_NGG: Tensor = kept_NGG / kept_NGG.mean().clamp(min=torch.finfo(torch.float32).tiny)
        return weights_NGG.repeat_interleave(P, 1).repeat_interleave(P, 2)[:, None]

    return weigh
