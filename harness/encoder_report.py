"""Tell a person at a terminal what the probe found in an encoder."""

from collections.abc import Callable, Iterable, Sequence

from harness.encoder_records import OUTLIER, QUANTILES, EncoderOutliers, LayerOutliers, difference
from harness.outlier_words import or_absent, share, times, without_empty
from harness.text_table import columns, counted


def report(outliers: EncoderOutliers) -> str:
    """The verdict, and a line for each layer."""
    rows = [[heading for heading, _ in _COLUMNS], *([say(layer) for _, say in _COLUMNS] for layer in outliers.layers)]
    lines = [f"{named(outliers)}: {verdict(outliers)}", *_not_finite(outliers)]
    if outliers.layers:
        lines += ["", columns(without_empty(rows)), "", *_LEGEND]
    return "\n".join(lines)


def compared(before: EncoderOutliers, after: EncoderOutliers) -> str:
    """The largest norm over the median of every layer, before and after."""
    rows = [["layer", "before", "after"]]
    rows += [[str(layer.layer), times(layer.before), times(layer.after)] for layer in difference(before, after)]
    heads = [f"before: {named(before)}: {verdict(before)}", f"after:  {named(after)}: {verdict(after)}"]
    return "\n".join([*heads, "", "largest norm over the median of its image", columns(rows)])


def named(outliers: EncoderOutliers) -> str:
    """An encoder's title, its registers of test time and how many images it saw."""
    extra = f" + {counted(outliers.extra_tokens, 'test-time register')}" if outliers.extra_tokens else ""
    return f"{outliers.title}{extra}, {counted(outliers.images, 'image')}"


def verdict(outliers: EncoderOutliers) -> str:
    """The verdict with the layers that it rests on."""
    if not outliers.layers:
        return f"{outliers.verdict}: no norm is a finite number"
    found = outliers.outlier_layers
    return f"{outliers.verdict} ({_ranges(found)})" if found else outliers.verdict


def _not_finite(outliers: EncoderOutliers) -> list[str]:
    """A line about images that have no finite norm somewhere, where there are any."""
    where = [layer for layer, count in enumerate(outliers.not_finite) if count]
    if not where:
        return []
    count = counted(max(outliers.not_finite), "image")
    return [f"norms that are no finite numbers are left out: {count} at worst, {_ranges(where)}"]


def _attention(name: str, say: Callable[[float], str] = share) -> Callable[[LayerOutliers], str]:
    return lambda layer: or_absent(getattr(layer.attention, name, None), say)


_COLUMNS: Sequence[tuple[str, Callable[[LayerOutliers], str]]] = (
    ("layer", lambda layer: str(layer.layer)),
    ("median", lambda layer: f"{layer.median_norm:.4g}"),
    ("max", lambda layer: times(layer.max_over_median)),
    (f"{100 * QUANTILES[-1]:g} %", lambda layer: times(layer.quantiles[-1])),
    (">3x", lambda layer: share(layer.share_above_3x)),
    (">5x", lambda layer: share(layer.share_above_5x)),
    ("images", lambda layer: share(layer.images_above_3x)),
    ("top 3", lambda layer: share(layer.channel_share)),
    ("channels", lambda layer: str(len(layer.large_channels))),
    ("class", lambda layer: or_absent(layer.class_token_over_median, times)),
    ("registers", lambda layer: or_absent(layer.registers_over_median, times)),
    ("extra", lambda layer: or_absent(layer.extra_over_median, times)),
    ("att. class", _attention("class_token")),
    ("att. registers", _attention("registers")),
    ("att. extra", _attention("extra")),
    ("att. outliers", _attention("outliers")),
    ("each", _attention("outliers_over_share", lambda value: f"{times(value)}x")),
)

_LEGEND = (
    f"max, {100 * QUANTILES[-1]:g} %, class, registers, extra: norms over the median patch of their image",
    f">3x, >5x: shares of the patches; images: those with a patch above {OUTLIER:g}x",
    "top 3: of the largest patch the share of its energy in three channels; channels: large for all patches",
    "att.: share of the attention; outliers: those that entered the block; each: over the average patch's",
)


def _ranges(layers: Iterable[int]) -> str:
    """ "layers 3 to 5, 9"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ("layer " if len(words) == 1 and len(runs[0]) == 1 else "layers ") + ", ".join(words)
