"""What is known of a denoiser's outlier tokens, and the rule that says whether there are any: frozen data, no torch."""

from collections.abc import Sequence
from typing import Literal

from harness.comparability import Basis
from harness.encoder_records import LEAST_IMAGES, LEAST_TOKENS, OUTLIER
from harness.frozen import Fraction, Frozen, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from harness.spec import Protocol

# DSR calls a token an outlier whose norm is above 100, whatever the median is.
TAU = 100.0
TOP_SHARE = 0.002

RULE = (
    f"outliers: at some block and noise level at least {100 * LEAST_TOKENS:g} % of the patches are above "
    f"{OUTLIER:g} medians of their image, in at least {100 * LEAST_IMAGES:g} % of the images"
)

Verdict = Literal["outliers", "no outliers here", "not measured"]


class OutlierStatistics(Frozen):
    """Token norms after one block at one noise level: per image first, then the mean over `images`.

    Patches: `max_over_median` is the largest norm, `top_over_median` the mean of the largest 0.2 % (at least one), in
    units of the image's median; `share_above_*` are the shares whose norm exceeds a multiple of it, or the absolute
    `tau`; `images_above_3x` is the share of the images with a patch above 3x.

    Channels: `channel_share` is the share of the largest patch's energy in its three largest channels.
    `large_channels` are how many are large for ALL patches: their median magnitude over an image's patches is, in the
    mean over images, above ten times that of the median channel.

    Places: entropies of where patches are, over log(number of patches): 0 is always the same place, 1 anywhere alike.
    `position_entropy_largest` is of the largest patch of every image, `position_entropy_above_3x` of those above 3x,
    where every image that has any counts the same (None where none has).  N images of L patches cannot reach more than
    log N / log L in the former.

    Registers are apart: the largest and the median of their norms, in units of the same patch median.

    Attention is that of this very block, mean over queries, heads and images: `attention_patches`, `_native` (tokens
    of the backbone's own), `_text` (those of a prompt in context), `_registers` and `_sink` (keys that are no token)
    sum to 1, and what there is none of is None.  `attention_outliers` is the part of `attention_patches` that goes to
    patches that were above 3x as they entered the block (None for the first block of a trunk, whose input is no
    block's output), and `attention_outliers_over_share` what one of them receives over what the average patch of its
    image does, over those images that have any.

    What is None by default and not explained here was not measured: older records lack it.
    """

    block: NonNegativeInt
    time: Fraction
    median_norm: NonNegativeFloat
    max_over_median: NonNegativeFloat
    share_above_3x: Fraction
    share_above_5x: Fraction
    channel_share: Fraction
    register_max_over_median: NonNegativeFloat | None = None
    images: PositiveInt | None = None
    top_over_median: NonNegativeFloat | None = None
    share_above_10x: Fraction | None = None
    tau: PositiveFloat | None = None
    share_above_tau: Fraction | None = None
    images_above_3x: Fraction | None = None
    large_channels: NonNegativeInt | None = None
    position_entropy_largest: Fraction | None = None
    position_entropy_above_3x: Fraction | None = None
    register_median_over_median: NonNegativeFloat | None = None
    attention_patches: Fraction | None = None
    attention_native: Fraction | None = None
    attention_text: Fraction | None = None
    attention_registers: Fraction | None = None
    attention_sink: Fraction | None = None
    attention_outliers: Fraction | None = None
    attention_outliers_over_share: NonNegativeFloat | None = None

    @property
    def has_outliers(self) -> bool | None:
        """Whether there are as many as RULE asks; None where an older record does not say in how many images."""
        if self.images_above_3x is None:
            return None
        return self.share_above_3x >= LEAST_TOKENS and self.images_above_3x >= LEAST_IMAGES


def basis_of_probe(protocol: Protocol) -> Basis:
    """What a value over all blocks and noise levels rests on: how many images were probed, and where."""
    times = ", ".join(f"{time:g}" for time in protocol.noise_levels)
    return Basis(settings=f"{protocol.outlier_images} images at t = {times}")


def verdict_of(statistics: Sequence[OutlierStatistics]) -> Verdict:
    """The answer in words, by RULE: there are outliers where at least one block has them at some noise level."""
    found = [each.has_outliers for each in statistics]
    if any(found):
        return "outliers"
    return "no outliers here" if found and None not in found else "not measured"


def worst_of(statistics: Sequence[OutlierStatistics]) -> OutlierStatistics | None:
    """The block and noise level with the largest norm over the median; None where there are no statistics."""
    return max(statistics, key=lambda each: each.max_over_median, default=None)
