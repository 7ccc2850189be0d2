"""Outlier tokens of an encoder: norms, places, channels and attention, layer by layer, over a stream of images.

Definition: as in `outliers.py`.  The L2 norms of the patches that a block puts out are compared with their median
within the same image; every statistic is taken per image first, and averaged over images after.
"""

# N images, T tokens of a sequence, L of them patches, D width, C channels, H height, W width of the pixels

import base64
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from PIL import Image
from torch import Tensor

from harness.encoder import Encoder
from harness.encoder_records import (
    EXTREME,
    OUTLIER,
    QUANTILES,
    AttentionShares,
    EncoderOutliers,
    Example,
    LayerOutliers,
    worst_of,
)
from harness.images import to_uint8
from harness.metrics.attention_received import ReceivedAttention
from harness.metrics.token_norms import (
    LARGE_CHANNEL,
    TINY,
    Means,
    channel_share,
    channels_over_median,
    relative_norms,
)

SHOWN_IMAGES, THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 6, 160, 90


@torch.no_grad()
def probe(encoder: Encoder, batches: Iterable[Tensor], *, shown_layer: int | None = None) -> EncoderOutliers:
    """Everything about an encoder's outlier tokens, from batches of normalised pixels, (N, C, S, S) each.

    Memory does not grow with the number of images.  The numbers do not depend on how images are batched, to rounding.
    `shown_layer` is the layer of the positions and examples: that with most outliers, unless another is given (as one
    does to see what became of them in an encoder with registers).
    """
    layers: defaultdict[int, _Layer] = defaultdict(_Layer)
    thumbnails: list[str] = []
    images = 0
    for batch_NCHW in batches:
        pixels_NCHW = batch_NCHW.to(encoder.mean.device)
        images += len(pixels_NCHW)
        shown_NCHW = pixels_NCHW[: SHOWN_IMAGES - len(thumbnails)] * encoder.std + encoder.mean
        thumbnails += [_thumbnail(image_CHW) for image_CHW in shown_NCHW]
        with ReceivedAttention() as attention:
            encoder(pixels_NCHW, _Watch(encoder, attention, layers))
    assert images, "there are no images to probe"
    statistics = [found for layer in sorted(layers) if (found := layers[layer].statistics(layer))]
    worst = worst_of(statistics)
    shown = worst.layer if shown_layer is None and worst else shown_layer
    assert shown is None or shown in layers, f"the encoder puts out no layer {shown}"
    return EncoderOutliers(
        encoder=encoder.definition.name,
        title=encoder.definition.title or encoder.definition.name,
        grid=encoder.definition.grid,
        extra_tokens=encoder.extra.count,
        images=images,
        layers=tuple(statistics),
        not_finite=tuple(layers[layer].not_finite for layer in sorted(layers)),
        shown_layer=shown,
        positions=() if shown is None else layers[shown].positions(encoder.definition.grid),
        examples=() if shown is None else layers[shown].examples(encoder.definition.grid, thumbnails),
    )


class _Watch:
    """Sees the layers of one forward pass, and adds them to `layers`."""

    def __init__(self, encoder: Encoder, attention: ReceivedAttention, layers: defaultdict[int, "_Layer"]) -> None:
        self._encoder, self._attention, self._layers = encoder, attention, layers
        self._entered_NL: Tensor | None = None

    def __call__(self, layer: int, tokens_NTD: Tensor) -> None:
        parts = _parts(self._encoder, tokens_NTD.shape[1])
        relative_NL, median_N1 = relative_norms(tokens_NTD[:, parts["patches"]])
        finite_N = tokens_NTD.float().norm(dim=-1).isfinite().all(dim=1)
        sums = self._layers[layer]
        sums.show(relative_NL)
        sums.not_finite += int((~finite_N).sum())
        sums.add(tokens_NTD[finite_N].float(), relative_NL[finite_N], median_N1[finite_N], parts)
        received_NT, entered_NL = self._attention.take(), self._entered_NL
        if received_NT is not None:
            entered_NL = None if entered_NL is None else entered_NL[finite_N]
            sums.add_attention(received_NT[finite_N], entered_NL, parts)
        self._entered_NL = relative_NL > OUTLIER


def _parts(encoder: Encoder, length: int) -> dict[str, slice]:
    """Where in a sequence the kinds of tokens are, without those that there are none of."""
    classes, first = int(encoder.definition.class_token), encoder.num_prefix_tokens
    last = first + encoder.num_patches
    bounds = {
        "class_token": (0, classes),
        "registers": (classes, first),
        "patches": (first, last),
        "extra": (last, length),
    }
    return {name: slice(start, stop) for name, (start, stop) in bounds.items() if start < stop}


class _Layer:
    """Sums over the images of one layer."""

    def __init__(self) -> None:
        self.images = self.not_finite = 0
        self._numbers, self._attention, self._channels = Means(), Means(), Means()
        self._histogram = _LogHistogram()
        self._positions_L: Tensor | None = None
        self._maps: list[Tensor] = []

    def show(self, relative_NL: Tensor) -> None:
        """Keep the maps of the first few images."""
        self._maps += list(relative_NL[: SHOWN_IMAGES - len(self._maps)].cpu())

    def add(self, tokens_NTD: Tensor, relative_NL: Tensor, median_N1: Tensor, parts: Mapping[str, slice]) -> None:
        """Take in images whose norms are finite."""
        self.images += len(tokens_NTD)
        self._histogram.add(relative_NL)
        counts_L = (relative_NL > OUTLIER).sum(dim=0).cpu()
        self._positions_L = counts_L if self._positions_L is None else self._positions_L + counts_L
        patches_NLD = tokens_NTD[:, parts["patches"]]
        self._channels.add("over_median", channels_over_median(patches_NLD))
        for name, values_N in _numbers(patches_NLD, relative_NL, median_N1).items():
            self._numbers.add(name, values_N)
        for name in parts.keys() - {"patches"}:
            largest_N = tokens_NTD[:, parts[name]].norm(dim=-1).amax(dim=1)
            self._numbers.add(f"{name}_over_median", largest_N / median_N1[:, 0].clamp(min=TINY))

    def add_attention(self, received_NT: Tensor, entered_NL: Tensor | None, parts: Mapping[str, slice]) -> None:
        """Take in what tokens received; `entered_NL` are the outliers among the patches that entered the block."""
        for name, part in parts.items():
            self._attention.add(name, received_NT[:, part].sum(dim=1))
        if entered_NL is None:
            return
        received_NL = received_NT[:, parts["patches"]]
        outliers_N, count_N = (received_NL * entered_NL).sum(dim=1), entered_NL.sum(dim=1)
        self._attention.add("outliers", outliers_N)
        over_share_N = outliers_N / count_N / received_NL.mean(dim=1)
        self._attention.add("outliers_over_share", over_share_N[count_N > 0])

    def statistics(self, layer: int) -> LayerOutliers | None:
        """Means over all images so far; None where none had finite norms."""
        if not self.images:
            return None
        attention = self._attention.numbers()
        large_D = self._channels.of("over_median") > LARGE_CHANNEL
        return LayerOutliers.model_validate(
            {
                "layer": layer,
                "images": self.images,
                **self._numbers.numbers(),
                "quantiles": tuple(self._histogram.quantile(share) for share in QUANTILES),
                "large_channels": tuple(large_D.nonzero()[:, 0].tolist()),
                "attention": AttentionShares.model_validate(attention) if attention else None,
            }
        )

    def positions(self, grid: int) -> tuple[tuple[int, ...], ...]:
        """How often each patch was an outlier, row by row."""
        assert self._positions_L is not None
        return tuple(tuple(row) for row in self._positions_L.reshape(grid, grid).tolist())

    def examples(self, grid: int, thumbnails: Iterable[str]) -> tuple[Example, ...]:
        """The first images, with their norms over the median to four digits."""
        rows = (map_L.reshape(grid, grid).tolist() if map_L.isfinite().all() else [] for map_L in self._maps)
        return tuple(
            Example(thumbnail=thumbnail, norms=tuple(tuple(float(f"{norm:.4g}") for norm in row) for row in map_GG))
            for thumbnail, map_GG in zip(thumbnails, rows, strict=True)
        )


def _numbers(patches_NLD: Tensor, relative_NL: Tensor, median_N1: Tensor) -> dict[str, Tensor]:
    """What is said of the patches of each image, (N,), by the names of LayerOutliers."""
    outliers_NL, extreme_NL = relative_NL > OUTLIER, relative_NL > EXTREME
    return {
        "median_norm": median_N1[:, 0],
        "max_over_median": relative_NL.amax(dim=1),
        "share_above_3x": outliers_NL.float().mean(dim=1),
        "share_above_5x": extreme_NL.float().mean(dim=1),
        "images_above_3x": outliers_NL.any(dim=1),
        "images_above_5x": extreme_NL.any(dim=1),
        "channel_share": channel_share(patches_NLD, patches_NLD.norm(dim=-1)),
    }


class _LogHistogram:
    """Counts of numbers in bins of equal ratio, from which quantiles are read to within a bin, 0.1 %."""

    LOWEST, HIGHEST, BINS = -3.0, 4.0, 16384  # powers of ten; what lies outside counts at the nearer end

    def __init__(self) -> None:
        self._counts = torch.zeros(self.BINS, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        place = (values.cpu().double().log10() - self.LOWEST) / (self.HIGHEST - self.LOWEST) * self.BINS
        bins = place.clamp(0, self.BINS - 1).long().flatten()
        self._counts += torch.bincount(bins, minlength=self.BINS)

    def quantile(self, share: float) -> float:
        """The number below which this share of all lies, as if they were spread evenly over the ratios of a bin."""
        below = self._counts.cumsum(dim=0)
        wanted = share * float(below[-1])
        index = int(torch.searchsorted(below.double(), wanted))
        inside = 1 - (float(below[index]) - wanted) / float(self._counts[index])
        return math.pow(10, self.LOWEST + (index + inside) * (self.HIGHEST - self.LOWEST) / self.BINS)


def _thumbnail(image_CHW: Tensor) -> str:
    """An image of values in [0, 1] as a small JPEG in base64: colour where it has three channels, else its first."""
    channels = 3 if len(image_CHW) == 3 else 1
    values_HWC = image_CHW[:channels].permute(1, 2, 0).nan_to_num().cpu().numpy() * 2 - 1
    pixels = to_uint8(values_HWC, "round")
    picture = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=THUMBNAIL_QUALITY)
    return base64.b64encode(content.getvalue()).decode()
