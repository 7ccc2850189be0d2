"""Clamp outlier norms outside training: the control that takes outliers from a network which was trained with them.

DSR (arXiv 2605.05206) and an independent probe of a text-to-image model clamp norms and find no gain.  Their multiple
of the median is not published; ours is a field.
"""

# N batch, L tokens, P of them patches, D width

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from harness.registers import NormClamp


def norm_clamp(config: NormClamp, patch_tokens: int) -> Callable[[Tensor], Tensor]:
    """From tokens (N, L, D), patches first, to the same with no patch above the multiple of its image's median norm.

    The median is that of the patches, the lower of the two middle ones, which a clamp leaves where it was: clamping
    again changes nothing.  Registers and a network's own tokens stay as they are, and so does what is not above.
    """

    def clamp(tokens_NLD: Tensor) -> Tensor:
        norms_NP1 = tokens_NLD[:, :patch_tokens].float().norm(dim=-1, keepdim=True)
        most_N11 = config.above * norms_NP1.median(dim=1, keepdim=True).values
        scale_NP1 = torch.where(norms_NP1 > most_N11, most_N11 / norms_NP1, 1.0)
        scale_NL1 = functional.pad(scale_NP1, (0, 0, 0, tokens_NLD.shape[1] - patch_tokens), value=1.0)
        return tokens_NLD * scale_NL1.to(tokens_NLD.dtype)

    return clamp
