"""Outlier tokens: norms far above the median, by block and noise level.

Definition: the L2 norms of the patch tokens that a block puts out (the residual stream, before any norm), compared
with their median within the same image.  Every statistic is taken per image first and averaged over images after:
averaging norms over images or noise first would hide outliers that move.
"""

# N images, L patch tokens, R registers, D width

import numpy as np
import torch
from torch import Tensor

from harness.data import spread_evenly
from harness.denoiser import Denoiser
from harness.objective import objective_of
from harness.randomness import Stream, generator
from harness.records import Measurement, OutlierStatistics
from harness.source import Source
from harness.spec import RunConfig

TOP_CHANNELS = 3


def probe(config: RunConfig, denoiser: Denoiser, source: Source) -> list[OutlierStatistics]:
    """Statistics of every block at every noise level of the protocol, on images spread evenly over the data.

    Float32 (TF32 products where the recipe has them), true labels, no guidance, posterior means of a VAE; the noise of
    probe image i depends on (seed, i) and is the same at all levels.
    A block whose norms are no numbers has no statistics.
    """
    device = next(denoiser.parameters()).device
    indices = spread_evenly(config.protocol.outlier_images, len(source.images))
    count = len(indices)
    clean = source.data(indices, np.zeros(count, np.bool_)).to(device)
    shape = tuple(clean.shape[1:])
    draws = [generator(config.seed, Stream.PROBE, i).standard_normal(shape, np.float32) for i in range(count)]
    noise = torch.from_numpy(np.stack(draws)).to(device)
    labels_N = torch.from_numpy(source.images.labels[indices]).to(device)
    found: list[OutlierStatistics] = []
    for time in config.protocol.noise_levels:

        def watch(block: int, tokens_NLD: Tensor, time: float = time) -> None:
            patches_NLD = tokens_NLD[:, : denoiser.patch_tokens]
            first_register = tokens_NLD.shape[1] - denoiser.registers.present(block)
            statistics = _statistics(block, time, patches_NLD.float(), tokens_NLD[:, first_register:].float())
            found.extend([statistics] if statistics else [])

        with torch.no_grad():
            x, t_N = objective_of(config).at_time(clean, noise, time)
            denoiser.eval()(x, t_N, labels_N, watch)
    return found


def summary(statistics: list[OutlierStatistics]) -> list[Measurement]:
    """The worst block at the worst noise level, or nothing where there are no statistics."""
    if not statistics:
        return []
    worst = max(statistics, key=lambda s: s.max_over_median)
    note = f"largest over blocks and noise levels: block {worst.block} at t = {worst.time}; mean over images"
    return [
        Measurement(
            name="outlier_max_over_median",
            value=worst.max_over_median,
            unit="patch median norm",
            better="neither",
            note=note,
        )
    ]


def _statistics(block: int, time: float, patches_NLD: Tensor, registers_NRD: Tensor) -> OutlierStatistics | None:
    norms_NL = patches_NLD.norm(dim=-1)
    if not norms_NL.isfinite().all() or not registers_NRD.norm(dim=-1).isfinite().all():
        return None
    median_N1 = norms_NL.quantile(0.5, dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    relative_NL = norms_NL / median_N1
    registers = None
    if registers_NRD.shape[1]:
        registers = _mean((registers_NRD.norm(dim=-1) / median_N1).amax(dim=1))
    return OutlierStatistics(
        block=block,
        time=time,
        median_norm=_mean(median_N1),
        max_over_median=_mean(relative_NL.amax(dim=1)),
        share_above_3x=_mean((relative_NL > 3).float()),
        share_above_5x=_mean((relative_NL > 5).float()),
        channel_share=_mean(channel_share(patches_NLD, norms_NL)),
        register_max_over_median=registers,
    )


def channel_share(patches_NLD: Tensor, norms_NL: Tensor) -> Tensor:
    """Of the largest token of each image, the share of its energy that sits in its three largest channels, (N,).

    Near 1: a few channels are large (registers do not address those); near 3 / D: the token as a whole is.
    """
    largest_N = norms_NL.argmax(dim=1)
    energy_ND = patches_NLD[torch.arange(len(patches_NLD)), largest_N] ** 2
    top = energy_ND.topk(min(TOP_CHANNELS, energy_ND.shape[1]), dim=1).values.sum(dim=1)
    share = top / energy_ND.sum(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return share.clamp(max=1)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
