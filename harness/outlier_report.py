"""Tell a person at a terminal what the probe found in a denoiser."""

from collections.abc import Callable, Mapping, Sequence

from harness.denoiser_probing import ProbedDenoiser
from harness.encoder_records import OUTLIER
from harness.outlier_records import RULE, TAU, OutlierStatistics, worst_of
from harness.outlier_words import ABSENT, or_absent, share, times, without_empty
from harness.text_table import columns, counted


def report(probed: ProbedDenoiser) -> str:
    """The verdict and its rule, the largest norms by block and noise level, and a line for each block at its worst."""
    lines = [f"{probed.title}, {counted(probed.images, 'image')}", verdict(probed), RULE]
    if not probed.statistics:
        return "\n".join(lines)
    return "\n".join([*lines, "", *_by_noise(probed.statistics), "", *_by_block(probed.statistics), "", *_LEGEND])


def verdict(probed: ProbedDenoiser) -> str:
    """The verdict with what it rests on."""
    worst = worst_of(probed.statistics)
    if worst is None:
        return f"{probed.verdict}: no block has norms that are finite numbers"
    places = len(probed.statistics)
    found = sum(each.has_outliers is True for each in probed.statistics)
    where = f", at {found} of {places} blocks and noise levels" if found else ""
    return (
        f"{probed.verdict}{where}; the largest norm is {times(worst.max_over_median)} medians, "
        f"after block {worst.block} at t = {worst.time:g}"
    )


def _by_noise(statistics: Sequence[OutlierStatistics]) -> list[str]:
    by_place = {(each.block, each.time): each for each in statistics}
    levels = list(dict.fromkeys(each.time for each in statistics))
    rows = [["block", *(f"t = {time:g}" for time in levels)]]
    for block in sorted({each.block for each in statistics}):
        found = [by_place.get((block, time)) for time in levels]
        rows.append([str(block), *(times(each.max_over_median) if each else ABSENT for each in found)])
    return ["largest norm over the median of its image, by block and noise level (t = 0 noise, 1 data)", columns(rows)]


def _by_block(statistics: Sequence[OutlierStatistics]) -> list[str]:
    of_block: dict[int, list[OutlierStatistics]] = {}
    for each in statistics:
        of_block.setdefault(each.block, []).append(each)
    worst = [found for block in sorted(of_block) if (found := worst_of(of_block[block])) is not None]
    rows = [list(_COLUMNS), *([say(each) for say in _COLUMNS.values()] for each in worst)]
    return ["every block at the noise level of its largest norm", columns(without_empty(rows))]


def _say(name: str, say: Callable[[float], str]) -> Callable[[OutlierStatistics], str]:
    return lambda each: or_absent(getattr(each, name), say)


_COLUMNS: Mapping[str, Callable[[OutlierStatistics], str]] = {
    "block": lambda each: str(each.block),
    "t": lambda each: f"{each.time:g}",
    "median": _say("median_norm", lambda value: f"{value:.4g}"),
    "max": _say("max_over_median", times),
    "0.2 %": _say("top_over_median", times),
    ">3x": _say("share_above_3x", share),
    ">5x": _say("share_above_5x", share),
    ">10x": _say("share_above_10x", share),
    f">{TAU:g}": _say("share_above_tau", share),
    "images": _say("images_above_3x", share),
    "places": _say("position_entropy_above_3x", lambda value: f"{value:.2f}"),
    "top 3": _say("channel_share", share),
    "channels": _say("large_channels", lambda value: f"{value:g}"),
    "registers": _say("register_max_over_median", times),
    "att. registers": _say("attention_registers", share),
    "att. native": _say("attention_native", share),
    "att. text": _say("attention_text", share),
    "att. sink": _say("attention_sink", share),
    "att. outliers": _say("attention_outliers", share),
    "each": _say("attention_outliers_over_share", lambda value: f"{times(value)}x"),
}

_LEGEND = (
    "max, 0.2 %, registers: the largest norm, the largest 0.2 % and the largest register, over the median patch",
    f">3x ... >{TAU:g}: shares of the patches above multiples of the median, and above a norm of {TAU:g}",
    f"images: those with a patch above {OUTLIER:g}x; places: the entropy of where these are, 0 one place, 1 anywhere",
    "top 3: of the largest patch the share of its energy in three channels; channels: large for all patches",
    "att.: share of the block's attention; outliers: those that entered it; each: over the average patch's",
)
