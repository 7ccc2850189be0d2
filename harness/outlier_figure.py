"""Draw where a denoiser's outlier tokens are: heat maps of block by noise level, and norm maps of a few images."""

# L patches, G patches along a side, R registers

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.denoiser_probing import ProbedDenoiser, Shown
from harness.encoder_records import OUTLIER
from harness.errors import UserError
from harness.files import write_whole
from harness.outlier_records import RULE, OutlierStatistics
from harness.outlier_report import verdict
from harness.probe_figure import (
    DOTS_PER_INCH,
    FAINT,
    INK,
    NORM_COLOURS,
    STYLE,
    WIDTH,
    bare,
    in_multiples,
    open_matplotlib,
)
from harness.text_table import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure, SubFigure

Numbers = npt.NDArray[np.float64]

TITLE_HEIGHT, HEAT_HEIGHT, MAP_HEIGHT, REGISTER_HEIGHT = 1.05, 2.9, 4.3, 0.35
COLUMNS = 6
LEAST_RATIO, MOST_RATIO = 0.5, 2 * OUTLIER
MOST_WRITTEN = 12
DARK = 0.6


def draw(probed: ProbedDenoiser, path: Path) -> None:
    """Write the figure as PNG.

    Above: the largest norm over the median after every block at every noise level, that of the registers where there
    are any, and the share of outliers.  Below: images, and the norm over the median of each of their patches where the
    largest norm was found, registers apart.  Raises UserError where there is nothing to draw, no matplotlib, or no
    writing to `path`.
    """
    if probed.shown is None:
        raise UserError(f"nothing of {probed.title} can be drawn: {verdict(probed)}", "look at its weights")
    figure = _figure(probed, probed.shown)
    write_whole(path, lambda part: figure.savefig(part, format="png", dpi=DOTS_PER_INCH))


def _figure(probed: ProbedDenoiser, shown: Shown) -> "Figure":
    matplotlib = open_matplotlib()
    heights = [TITLE_HEIGHT, HEAT_HEIGHT, MAP_HEIGHT]
    with matplotlib.rc_context(STYLE):
        figure: Figure = matplotlib.figure.Figure(figsize=(WIDTH, sum(heights)), facecolor="white")
        panels: Any = figure.subfigures(3, 1, height_ratios=heights)
        _write_title(panels[0], probed)
        _draw_heat(panels[1], probed.statistics)
        _draw_maps(panels[2], shown)
        figure.draw_without_rendering()
    return figure


def _write_title(panel: "SubFigure", probed: ProbedDenoiser) -> None:
    panel.text(0.02, 0.72, probed.title, size=14, weight="bold", va="center")
    panel.text(0.02, 0.42, f"{counted(probed.images, 'image')}: {verdict(probed)}", size=9, va="center")
    panel.text(0.02, 0.2, RULE, size=8, color=FAINT, va="center")


def _draw_heat(panel: "SubFigure", statistics: Sequence[OutlierStatistics]) -> None:
    """Block by noise level: norms of patches and of registers on one scale, and how many patches are outliers."""
    from matplotlib.colors import LogNorm, Normalize

    norms = {
        "patches: largest norm / median": _table(statistics, lambda each: each.max_over_median),
        "registers: largest norm / median patch": _table(statistics, lambda each: each.register_max_over_median),
    }
    drawn = {title: table for title, table in norms.items() if np.isfinite(table).any()}
    largest = max(float(np.nanmax(table)) for table in drawn.values())
    shares = _table(statistics, lambda each: 100 * each.share_above_3x)
    axes = panel.subplots(1, len(drawn) + 1, squeeze=False)[0]
    panel.subplots_adjust(left=0.055, right=0.97, top=0.87, bottom=0.19, wspace=0.22)
    for axis, (title, table) in zip(axes, drawn.items(), strict=False):
        axis.set_title(title)
        bar = _heat(axis, table, LogNorm(1, max(largest, MOST_RATIO), clip=True))
        in_multiples(bar.ax.yaxis)
    axes[-1].set_title(f"patches above {OUTLIER:g}x, percent")
    _heat(axes[-1], shares, Normalize(0, max(float(np.nanmax(shares)), 0.1)))
    for axis in axes:
        _name_places(axis, statistics)


def _table(statistics: Sequence[OutlierStatistics], value: Callable[[OutlierStatistics], float | None]) -> Numbers:
    """A number of every noise level (rows) after every block (columns); NaN, left white, where there is none."""
    levels, blocks = _levels(statistics), _blocks(statistics)
    table = np.full((len(levels), len(blocks)), np.nan)
    for each in statistics:
        number = value(each)
        if number is not None:
            table[levels.index(each.time), blocks.index(each.block)] = number
    return table


def _levels(statistics: Sequence[OutlierStatistics]) -> list[float]:
    return sorted({each.time for each in statistics})


def _blocks(statistics: Sequence[OutlierStatistics]) -> list[int]:
    return sorted({each.block for each in statistics})


def _heat(axis: "Axes", table: Numbers, scale: Any) -> Any:
    """The table as colours, with its numbers written in where there is room; returns the colour bar."""
    image = axis.imshow(table, cmap=NORM_COLOURS, norm=scale, aspect="auto", interpolation="nearest")
    if table.shape[1] <= MOST_WRITTEN:
        for (row, column), number in np.ndenumerate(table):
            if np.isfinite(number):
                colour = "white" if scale(number) > DARK else INK
                axis.text(column, row, f"{number:.3g}", ha="center", va="center", size=8, color=colour)
    bar = axis.get_figure().colorbar(image, ax=axis, pad=0.02, aspect=25)  # type: ignore[union-attr]
    bar.outline.set_visible(False)
    return bar


def _name_places(axis: "Axes", statistics: Sequence[OutlierStatistics]) -> None:
    levels, blocks = _levels(statistics), _blocks(statistics)
    axis.grid(visible=False)
    axis.set_xlabel("block")
    axis.set_ylabel("t (0 noise, 1 data)")
    axis.set_yticks(range(len(levels)), [f"{time:g}" for time in levels])
    every = range(0, len(blocks), -(-len(blocks) // MOST_WRITTEN))
    axis.set_xticks(every, [str(blocks[index]) for index in every])


def _draw_maps(panel: "SubFigure", shown: Shown) -> None:
    """The clean images in a row, under each the norms of its patches, and under those its registers'."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    patches, registers = shown.maps.patches.double().numpy(), shown.maps.registers.double().numpy()
    heights = [1.0, 1.0, *[REGISTER_HEIGHT] * bool(registers.size)]
    axes: Any = panel.subplots(
        len(heights), COLUMNS, squeeze=False, gridspec_kw={"height_ratios": heights, "wspace": 0.06, "hspace": 0.06}
    )
    panel.subplots_adjust(left=0.085, right=0.91, top=0.9, bottom=0.04)
    for axis in axes.flat:
        bare(axis)
        axis.set_visible(False)
    largest = max(float(patches.max()), float(registers.max(initial=0)), MOST_RATIO)
    scale = LogNorm(min(float(np.quantile(patches, 0.001)), LEAST_RATIO) or LEAST_RATIO, largest, clip=True)
    for column in range(len(patches)):
        _draw_image(axes[0, column], shown.pixels[column])
        _draw_norms(axes[1, column], _square(patches[column]), scale)
        if registers.size:
            _draw_norms(axes[2, column], _rows(registers[column]), scale)
    panel.text(
        0.085, 0.95, f"norm / median of its image, after block {shown.worst.block} at t = {shown.worst.time:g}", size=10
    )
    for axis, name in zip(axes[:, 0], ("clean image", "patches", "registers"), strict=False):
        axis.set_ylabel(name)
    bar = panel.colorbar(ScalarMappable(scale, NORM_COLOURS), cax=panel.add_axes((0.922, 0.04, 0.012, 0.5)))
    in_multiples(bar.ax.yaxis)
    bar.ax.grid(visible=False)


def _draw_image(axis: "Axes", pixels_CHW: npt.NDArray[np.uint8]) -> None:
    axis.set_visible(True)
    if len(pixels_CHW) == 1:
        axis.imshow(pixels_CHW[0], cmap="gray", vmin=0, vmax=255)
    else:
        axis.imshow(pixels_CHW.transpose(1, 2, 0))


def _draw_norms(axis: "Axes", norms: Numbers, scale: "LogNorm") -> None:
    axis.set_visible(True)
    axis.imshow(norms, cmap=NORM_COLOURS, norm=scale, interpolation="nearest")


def _square(norms_L: Numbers) -> Numbers:
    """Patches row by row, (G, G)."""
    G = math.isqrt(len(norms_L))
    assert len(norms_L) == G * G, "patches stand in a square"
    return norms_L.reshape(G, G)


def _rows(norms_R: Numbers) -> Numbers:
    """Registers in rows of three times as many as there are rows, the last one filled up with white."""
    width = math.ceil(math.sqrt(len(norms_R) / REGISTER_HEIGHT))
    padded = np.full((-(-len(norms_R) // width), width), np.nan)
    padded.flat[: len(norms_R)] = norms_R
    return padded
