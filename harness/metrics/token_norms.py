"""What a probe for outlier tokens measures with: norms over the median of their image, channels, means over images."""

# N images, L patch tokens, D width, X whatever else a value has

from collections import defaultdict

import torch
from torch import Tensor

TOP_CHANNELS = 3
LARGE_CHANNEL = 10.0
TINY = torch.finfo(torch.float32).tiny


def relative_norms(patches_NLD: Tensor) -> tuple[Tensor, Tensor]:
    """The norms of patches in units of the median of their image, (N, L), and that median, (N, 1)."""
    norms_NL = patches_NLD.float().norm(dim=-1)
    median_N1 = norms_NL.quantile(0.5, dim=1, keepdim=True)
    return norms_NL / median_N1.clamp(min=TINY), median_N1


def channel_share(patches_NLD: Tensor, norms_NL: Tensor) -> Tensor:
    """Of the largest token of each image, the share of its energy that sits in its three largest channels, (N,).

    Near 1: a few channels are large (registers do not address those); near 3 / D: the token as a whole is.
    """
    largest_N = norms_NL.argmax(dim=1)
    energy_ND = patches_NLD[torch.arange(len(patches_NLD)), largest_N] ** 2
    top = energy_ND.topk(min(TOP_CHANNELS, energy_ND.shape[1]), dim=1).values.sum(dim=1)
    share = top / energy_ND.sum(dim=1).clamp(min=TINY)
    return share.clamp(max=1)


def channels_over_median(patches_NLD: Tensor) -> Tensor:
    """The median magnitude of each channel over the patches, in units of the median channel's, (N, D).

    A median over patches, so that a few outlier tokens do not make a large channel.
    """
    magnitude_ND = patches_NLD.abs().median(dim=1).values
    return magnitude_ND / magnitude_ND.median(dim=1, keepdim=True).values.clamp(min=TINY)


class Means:
    """Means over images of named values, one batch after another, in double precision."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: defaultdict[str, int] = defaultdict(int)

    def add(self, name: str, values_NX: Tensor) -> None:
        """Take in a value of each image."""
        sums_X = values_NX.cpu().double().sum(dim=0)
        self._sums[name] = self._sums[name] + sums_X if name in self._sums else sums_X
        self._counts[name] += len(values_NX)

    def of(self, name: str) -> Tensor:
        """The mean over the images so far."""
        return self._sums[name] / self._counts[name]

    def numbers(self) -> dict[str, float]:
        """The means of all names that had an image."""
        return {name: float(self.of(name)) for name, count in self._counts.items() if count}
