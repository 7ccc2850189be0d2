"""What is known of an encoder's outlier tokens, and the rule that says whether there are any: frozen data, no torch."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from harness.frozen import Fraction, Frozen, NonNegativeFloat, NonNegativeInt, PositiveInt

# A token is an outlier when its norm exceeds this multiple of the median over its image's patches.
OUTLIER, EXTREME = 3.0, 5.0

QUANTILES = (0.001, 0.02, 0.5, 0.98, 0.99, 0.999)

# An encoder has outliers when at some layer this share of its tokens is above OUTLIER, in this share of its images.
# Of the published encoders SigLIP2 has the fewest: DSR's mask at norm 100 takes 0.1 % of its tokens.  A tenth of that
# is the bar; that it holds in one image of a hundred keeps a single odd picture from deciding.
LEAST_TOKENS, LEAST_IMAGES = 1e-4, 1e-2

Verdict = Literal["outliers", "no outliers in this encoder", "not measured"]


class AttentionShares(Frozen):
    """Where a block's attention goes: mean over queries, heads and images.

    `patches`, `class_token`, `registers` (trained) and `extra` (added at test time) sum to 1; what an encoder lacks is
    None.  `outliers` is that part of `patches` which goes to tokens that were outliers when they entered the block
    (None for the first block, whose input is no layer's output).  `outliers_over_share` is what one of them receives
    over what the average patch of its image does: the mean over those images that have any.
    """

    patches: NonNegativeFloat
    class_token: NonNegativeFloat | None = None
    registers: NonNegativeFloat | None = None
    extra: NonNegativeFloat | None = None
    outliers: NonNegativeFloat | None = None
    outliers_over_share: NonNegativeFloat | None = None


class LayerOutliers(Frozen):
    """One block's output: per image first, then the mean over those `images` whose norms are finite.

    `quantiles` are those at QUANTILES of norm / median over all patches of all images, to a tenth of a percent.
    `share_above_*` are shares of the patches, `images_above_*` of the images with at least one such patch.
    `channel_share` is the share of the largest patch's energy in its three largest channels.  `large_channels` are
    large for ALL patches: their median magnitude over an image's patches is, in the mean over images, above ten times
    that of the median channel.  (A median over patches, so that a few outlier tokens do not make a large channel.)
    `*_over_median` is the norm of the class token, or of the largest register, over the patches' median.
    `attention` is None where the block's attention could not be seen.
    """

    layer: NonNegativeInt
    images: PositiveInt
    median_norm: NonNegativeFloat
    max_over_median: NonNegativeFloat
    quantiles: tuple[NonNegativeFloat, ...]
    share_above_3x: Fraction
    share_above_5x: Fraction
    images_above_3x: Fraction
    images_above_5x: Fraction
    channel_share: Fraction
    large_channels: tuple[NonNegativeInt, ...]
    class_token_over_median: NonNegativeFloat | None = None
    registers_over_median: NonNegativeFloat | None = None
    extra_over_median: NonNegativeFloat | None = None
    attention: AttentionShares | None = None

    @property
    def has_outliers(self) -> bool:
        """Whether there are as many as the rule asks: see LEAST_TOKENS."""
        return self.share_above_3x >= LEAST_TOKENS and self.images_above_3x >= LEAST_IMAGES


class Example(Frozen):
    """One image as a figure shows it: a small JPEG in base64, and norm / median of each patch, row by row.

    `norms` are empty where they are no numbers.
    """

    thumbnail: str
    norms: tuple[tuple[NonNegativeFloat, ...], ...]


class EncoderOutliers(Frozen):
    """What the probe found in one encoder: `layers` in order, without those that have no finite norm.

    `not_finite` counts, for every layer there is, the images whose norms are no numbers there.  `positions` counts how
    often each patch of the grid is an outlier at `shown_layer`, and `examples` are the first images at that layer:
    the one with most outliers, unless the probe was told another (None where no layer could be measured).
    """

    encoder: str
    title: str
    grid: PositiveInt
    extra_tokens: NonNegativeInt
    images: PositiveInt
    layers: tuple[LayerOutliers, ...]
    not_finite: tuple[NonNegativeInt, ...]
    shown_layer: NonNegativeInt | None = None
    positions: tuple[tuple[NonNegativeInt, ...], ...] = ()
    examples: tuple[Example, ...] = Field(default=(), repr=False)

    @property
    def verdict(self) -> Verdict:
        """The answer in words: there are outliers when at least one layer has them."""
        if not self.layers:
            return "not measured"
        return "outliers" if self.outlier_layers else "no outliers in this encoder"

    @property
    def outlier_layers(self) -> tuple[int, ...]:
        """The layers that have outliers."""
        return tuple(layer.layer for layer in self.layers if layer.has_outliers)

    @property
    def worst(self) -> LayerOutliers | None:
        """The layer with most outlier tokens; among equals the one with the largest norm over its median."""
        return worst_of(self.layers)


def worst_of(layers: Iterable[LayerOutliers]) -> LayerOutliers | None:
    """`EncoderOutliers.worst` of layers alone."""
    return max(layers, key=lambda layer: (layer.share_above_3x, layer.max_over_median), default=None)


class LayerDifference(Frozen):
    """The largest norm over the median at one layer of two encoders."""

    layer: NonNegativeInt
    before: NonNegativeFloat
    after: NonNegativeFloat


def difference(before: EncoderOutliers, after: EncoderOutliers) -> tuple[LayerDifference, ...]:
    """The layers that were measured in both."""
    afterwards = {layer.layer: layer.max_over_median for layer in after.layers}
    return tuple(
        LayerDifference(layer=layer.layer, before=layer.max_over_median, after=afterwards[layer.layer])
        for layer in before.layers
        if layer.layer in afterwards
    )


class PatchChange(Frozen):
    """How far the patches that are no outliers moved: per patch, then over an image's patches, then over `images`.

    `cosine` is the cosine similarity of before and after, `relative_difference` the norm of their difference over the
    norm before.
    """

    images: PositiveInt
    cosine: float
    relative_difference: NonNegativeFloat


def pooled(changes: Iterable[PatchChange | None]) -> PatchChange | None:
    """The change over all images of several batches; None where no batch has one."""
    present = [change for change in changes if change is not None]
    images = sum(change.images for change in present)
    if not images:
        return None
    return PatchChange(
        images=images,
        cosine=sum(change.cosine * change.images for change in present) / images,
        relative_difference=sum(change.relative_difference * change.images for change in present) / images,
    )
