"""Outlier tokens: norms far above the median, by block and noise level.

Definition: the L2 norms of the patch tokens that a block puts out (the residual stream, before any norm), compared
with their median within the same image.  Every statistic is taken per image first and averaged over images after:
averaging norms over images or noise first would hide outliers that move.
"""

# N images, L patch tokens, R registers, T tokens of a sequence, S keys, D width, C channels, h side of the latents

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from harness.comparability import Basis
from harness.data import spread_evenly
from harness.denoiser import Denoiser
from harness.encoder_records import EXTREME, OUTLIER
from harness.metrics.attention_received import ReceivedAttention
from harness.metrics.token_norms import (
    LARGE_CHANNEL,
    TINY,
    Means,
    channel_share,
    channels_over_median,
    relative_norms,
)
from harness.objective import objective_of
from harness.outlier_records import TAU, TOP_SHARE, OutlierStatistics, basis_of_probe, worst_of
from harness.randomness import Stream, generator
from harness.records import Measurement
from harness.source import Indices, Source
from harness.spec import Protocol, RunConfig

AT_ONCE = 64
FAR_OUT = 10.0
DIGITS = 6

_Parts = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BlockNorms:
    """What a block put out at a noise level: norms over the median patch of their image.

    `numbers` say which of the probed images these are, (n,); `patches` are (n, L), `registers` (n, R).
    """

    numbers: Indices
    time: float
    block: int
    patches: Tensor
    registers: Tensor


def ignore(seen: BlockNorms) -> None:
    """Nobody looks on."""


def probe(
    config: RunConfig, denoiser: Denoiser, source: Source, look: Callable[[BlockNorms], None] = ignore
) -> list[OutlierStatistics]:
    """Statistics of every block at every noise level of the protocol, on images spread evenly over the data.

    Float32 (TF32 products where the recipe has them), true labels, no guidance, posterior means of a VAE; the noise of
    probe image i depends on (seed, i) and is the same at all levels.
    A block whose norms are no numbers has no statistics.  Memory does not grow with the number of images.
    `look` is shown the norms of every block as they come.
    """
    levels = config.protocol.noise_levels
    places: list[defaultdict[int, StatisticsOfPlace]] = [defaultdict(StatisticsOfPlace) for _ in levels]
    numbers = np.arange(len(probed_indices(config, source)))
    for start in range(0, len(numbers), AT_ONCE):
        shown = numbers[start : start + AT_ONCE]
        inputs = _inputs(config, source, shown)
        for time, blocks in zip(levels, places, strict=True):
            with ReceivedAttention() as attention:
                tell = partial(_tell, look, shown, time)
                inputs.show(config, denoiser, time, _Watch(denoiser, attention, blocks, tell))
    return [
        statistics
        for time, blocks in zip(levels, places, strict=True)
        for block in sorted(blocks)
        if (statistics := blocks[block].statistics(block, time))
    ]


def probed_indices(config: RunConfig, source: Source) -> Indices:
    """Which images of the source are probed: in their order, spread evenly over all."""
    return spread_evenly(config.protocol.outlier_images, len(source.images))


def summary(protocol: Protocol, statistics: list[OutlierStatistics]) -> list[Measurement]:
    """The worst block at the worst noise level, or nothing where there are no statistics."""
    return largest_norm(statistics, basis_of_probe(protocol))


def largest_norm(statistics: Sequence[OutlierStatistics], basis: Basis, *remarks: str) -> list[Measurement]:
    """As `summary`, of a probe that rests on that basis; remarks follow the note."""
    worst = worst_of(statistics)
    if worst is None:
        return []
    place = f"largest over blocks and noise levels: block {worst.block} at t = {worst.time}; mean over images"
    return [
        Measurement(
            name="outlier_max_over_median",
            value=worst.max_over_median,
            unit="patch median norm",
            better="neither",
            note="; ".join([place, *remarks]),
            basis=basis,
        )
    ]


@dataclass(frozen=True)
class NormMaps:
    """The norms of a few images at one block and noise level, over the median patch of their image.

    `indices` are the images' in the source, (N,); `patches` are (N, L), row by row, `registers` (N, R).
    """

    indices: Indices
    patches: Tensor
    registers: Tensor


def norm_maps(config: RunConfig, denoiser: Denoiser, source: Source, worst: OutlierStatistics, count: int) -> NormMaps:
    """What `probe` saw at a block and noise level, of `count` images spread evenly over those that it probed."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(block: int, tokens_NTD: Tensor) -> None:
        if block == worst.block:
            relative_NL, registers_NR, _ = _over_median(*_parts(denoiser, block, tokens_NTD))
            seen[block] = relative_NL.cpu(), registers_NR.cpu()

    inputs = _inputs(config, source, spread_evenly(count, len(probed_indices(config, source))))
    inputs.show(config, denoiser, worst.time, watch)
    return NormMaps(inputs.indices, *seen[worst.block])


@dataclass(frozen=True)
class _Inputs:
    """Some of the probed images: their indices in the source, latents and noise (N, C, h, h), and labels (N,)."""

    indices: Indices
    clean: Tensor
    noise: Tensor
    labels: Tensor

    @torch.no_grad()
    def show(self, config: RunConfig, denoiser: Denoiser, time: float, watch: Callable[[int, Tensor], None]) -> None:
        """One forward pass at a noise level."""
        device = next(denoiser.parameters()).device
        x, t_N = objective_of(config).at_time(self.clean.to(device), self.noise.to(device), time)
        denoiser.eval()(x, t_N, self.labels.to(device), watch)


def _inputs(config: RunConfig, source: Source, numbers: Indices) -> _Inputs:
    """The probe images of these numbers: i is the same image with the same noise, whichever others are asked for."""
    indices = probed_indices(config, source)[numbers]
    clean = source.data(indices, np.zeros(len(indices), np.bool_))
    shape = tuple(clean.shape[1:])
    draws = [generator(config.seed, Stream.PROBE, int(i)).standard_normal(shape, np.float32) for i in numbers]
    return _Inputs(indices, clean, torch.from_numpy(np.stack(draws)), torch.from_numpy(source.images.labels[indices]))


def _tell(look: Callable[[BlockNorms], None], numbers: Indices, time: float, block: int, parts: _Parts) -> None:
    relative_NL, registers_NR, _ = _over_median(*parts)
    look(BlockNorms(numbers, time, block, relative_NL, registers_NR))


class _Watch:
    """Sees the blocks of one forward pass, adds them to `blocks`, and tells their norms."""

    def __init__(
        self,
        denoiser: Denoiser,
        attention: ReceivedAttention,
        blocks: defaultdict[int, "StatisticsOfPlace"],
        tell: Callable[[int, _Parts], None],
    ) -> None:
        self._denoiser, self._attention, self._blocks, self._tell = denoiser, attention, blocks, tell
        self._entered_NL: Tensor | None = None

    def __call__(self, block: int, tokens_NTD: Tensor) -> None:
        patches_NLD, registers_NRD = _parts(self._denoiser, block, tokens_NTD)
        place = self._blocks[block]
        entered_NL = None if block in {trunk.start for trunk in self._denoiser.trunks} else self._entered_NL
        received_NS = self._attention.take()
        if received_NS is not None and received_NS.isfinite().all():
            registers, text = registers_NRD.shape[1], self._denoiser.prompts.present
            counts = TokenCounts(patches_NLD.shape[1], text, registers, tokens_NTD.shape[1])
            place.add_attention(received_NS, entered_NL, counts)
        self._tell(block, (patches_NLD, registers_NRD))
        self._entered_NL = place.add(patches_NLD, registers_NRD)


def _parts(denoiser: Denoiser, block: int, tokens_NTD: Tensor) -> _Parts:
    """The patches, which come first, and the registers, which end what a block puts out; float32."""
    first_register = tokens_NTD.shape[1] - denoiser.registers.present(block)
    return tokens_NTD[:, : denoiser.patch_tokens].float(), tokens_NTD[:, first_register:].float()


def _over_median(patches_NLD: Tensor, registers_NRD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Norms over the median patch of an image, of patches (N, L) and registers (N, R), and that median, (N, 1)."""
    relative_NL, median_N1 = relative_norms(patches_NLD)
    return relative_NL, registers_NRD.norm(dim=-1) / median_N1.clamp(min=TINY), median_N1


@dataclass(frozen=True)
class TokenCounts:
    """How many of a sequence's `tokens` are what: patches first, at its end text and then registers."""

    patches: int
    text: int
    registers: int
    tokens: int


class StatisticsOfPlace:
    """Sums over the images of one block at one noise level."""

    def __init__(self) -> None:
        self._images, self._is_finite = 0, True
        self._numbers, self._attention, self._channels = Means(), Means(), Means()
        self._largest, self._outliers = Means(), Means()

    def add(self, patches_NLD: Tensor, registers_NRD: Tensor) -> Tensor | None:
        """Take in images, and say which patches are outliers, (N, L); None where a norm is no number."""
        relative_NL, registers_NR, median_N1 = _over_median(patches_NLD, registers_NRD)
        if not (relative_NL.isfinite().all() and registers_NR.isfinite().all()):
            self._is_finite = False
            return None
        self._images += len(patches_NLD)
        for name, values_N in _numbers(patches_NLD, relative_NL, median_N1).items():
            self._numbers.add(name, values_N)
        if registers_NR.shape[1]:
            self._numbers.add("register_max_over_median", registers_NR.amax(dim=1))
            self._numbers.add("register_median_over_median", registers_NR.quantile(0.5, dim=1))
        self._channels.add("over_median", channels_over_median(patches_NLD))
        outliers_NL = relative_NL > OUTLIER
        count_N1 = outliers_NL.sum(dim=1, keepdim=True)
        largest_N = relative_NL.argmax(dim=1)
        self._largest.add("places", torch.nn.functional.one_hot(largest_N, relative_NL.shape[1]))
        self._outliers.add("places", outliers_NL / count_N1.clamp(min=1))
        return outliers_NL

    def add_attention(self, received_NS: Tensor, entered_NL: Tensor | None, counts: TokenCounts) -> None:
        """Take in what keys received: those of so many tokens of each kind; keys that are none of them are sinks.

        `entered_NL` are the outliers among the patches that entered the block.
        """
        patches, first_register = counts.patches, counts.tokens - counts.registers
        bounds = {
            "patches": (0, patches),
            "native": (patches, first_register - counts.text),
            "text": (first_register - counts.text, first_register),
            "registers": (first_register, counts.tokens),
            "sink": (counts.tokens, received_NS.shape[1]),
        }
        for name, (start, stop) in bounds.items():
            if start < stop:
                self._attention.add(f"attention_{name}", received_NS[:, start:stop].sum(dim=1))
        if entered_NL is None:
            return
        received_NL = received_NS[:, :patches]
        outliers_N, count_N = (received_NL * entered_NL).sum(dim=1), entered_NL.sum(dim=1)
        self._attention.add("attention_outliers", outliers_N)
        over_share_N = outliers_N / count_N / received_NL.mean(dim=1)
        self._attention.add("attention_outliers_over_share", over_share_N[count_N > 0])

    def statistics(self, block: int, time: float) -> OutlierStatistics | None:
        """Means over all images; None where a norm was no number."""
        if not self._is_finite:
            return None
        means = {**self._numbers.numbers(), **self._attention.numbers()}
        entropies = {
            "position_entropy_largest": _entropy(self._largest.of("places")),
            "position_entropy_above_3x": _entropy(self._outliers.of("places")),
        }
        return OutlierStatistics.model_validate(
            {
                "block": block,
                "time": time,
                "images": self._images,
                "tau": TAU,
                "large_channels": int((self._channels.of("over_median") > LARGE_CHANNEL).sum()),
                **{name: _rounded(value) for name, value in means.items()},
                **{name: None if value is None else _rounded(value) for name, value in entropies.items()},
            }
        )


def _numbers(patches_NLD: Tensor, relative_NL: Tensor, median_N1: Tensor) -> dict[str, Tensor]:
    """What is said of the patches of each image, (N,), by the names of OutlierStatistics."""
    norms_NL = patches_NLD.norm(dim=-1)
    top = max(1, round(TOP_SHARE * relative_NL.shape[1]))
    above = {f"share_above_{times:g}x": relative_NL > times for times in (OUTLIER, EXTREME, FAR_OUT)}
    above["share_above_tau"] = norms_NL > TAU
    return {
        "median_norm": median_N1[:, 0],
        "max_over_median": relative_NL.amax(dim=1),
        "top_over_median": relative_NL.topk(top, dim=1).values.mean(dim=1),
        **{name: outliers_NL.float().mean(dim=1) for name, outliers_NL in above.items()},
        "images_above_3x": above["share_above_3x"].any(dim=1),
        "channel_share": channel_share(patches_NLD, norms_NL),
    }


def _entropy(weights_L: Tensor) -> float | None:
    """The entropy of a distribution over places, over the logarithm of their number; None for an empty one, or one."""
    total = float(weights_L.sum())
    if not total or len(weights_L) < 2:
        return None
    shares_L = weights_L / total
    return min(1.0, max(0.0, -float(shares_L.xlogy(shares_L).sum()) / math.log(len(weights_L))))


def _rounded(value: float) -> float:
    """What float32 is sure of."""
    return float(f"{value:.{DIGITS}g}")
