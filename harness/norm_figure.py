"""Draw where an encoder's outlier tokens are: norm maps of a few images, and every layer's numbers, as one PNG."""

# G patches along a side

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.encoder_records import OUTLIER, EncoderOutliers, LayerOutliers
from harness.encoder_report import named, verdict
from harness.errors import UserError
from harness.files import write_whole
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

TITLE_HEIGHT, TITLE_LINE, MAP_HEIGHT, MAP_MARGIN, LINES_HEIGHT = 0.6, 0.21, 1.72, 0.25, 3.5
COLUMNS = 6
# Blue and vermilion of Okabe and Ito: told apart by the colour-blind, and by their lightness in print.
BEFORE_COLOUR, AFTER_COLOUR = "#0072b2", "#d55e00"
COUNT_COLOURS = "BuPu"
LEAST_RATIO, MOST_RATIO = 0.5, 2 * OUTLIER
MAP_MARGINS = {"left": 0.085, "right": 0.91}


@dataclass(frozen=True)
class _Shown:
    """One encoder's results as the figure tells them apart from the other's."""

    outliers: EncoderOutliers
    word: str
    colour: str
    dashes: Literal["-", "--"]


def draw(before: EncoderOutliers, after: EncoderOutliers | None, path: Path) -> None:
    """Write the figure of one encoder, or of two whose images are the same, such as one without and with registers.

    Above: images, and the norm over the median of each patch at the shown layer, one colour scale for all.  Below:
    layer by layer the largest norm, the share of outliers and their share of the attention; and where on the grid
    they are.  Raises UserError where there is nothing to draw, no matplotlib, or no writing to `path`.
    """
    for outliers in filter(None, (before, after)):
        if outliers.shown_layer is None:
            raise UserError(
                f"no layer of {outliers.title} can be drawn: {verdict(outliers)}",
                "look at its weights, or at the precision it runs in",
            )
    shown = [_Shown(before, "" if after is None else "before", BEFORE_COLOUR, "-")]
    shown += [] if after is None else [_Shown(after, "after", AFTER_COLOUR, "--")]
    figure = _figure(shown)
    write_whole(path, lambda part: figure.savefig(part, format="png", dpi=DOTS_PER_INCH))


def _figure(shown: Sequence[_Shown]) -> "Figure":
    matplotlib = open_matplotlib()
    rows = 1 + len(shown)
    heights = [TITLE_HEIGHT + TITLE_LINE * len(shown), rows * MAP_HEIGHT + MAP_MARGIN, LINES_HEIGHT]
    with matplotlib.rc_context(STYLE):
        figure: Figure = matplotlib.figure.Figure(figsize=(WIDTH, sum(heights)), facecolor="white")
        panels: Any = figure.subfigures(3, 1, height_ratios=heights)
        _write_title(panels[0], shown)
        _draw_maps(panels[1], shown)
        _draw_lines(panels[2], shown)
        figure.draw_without_rendering()
    return figure


def _write_title(panel: "SubFigure", shown: Sequence[_Shown]) -> None:
    """The encoder's name, and under it what was found."""
    height = TITLE_HEIGHT + TITLE_LINE * len(shown)
    panel.text(0.02, 1 - 0.32 / height, shown[0].outliers.title, size=15, weight="bold", va="center")
    for index, one in enumerate(shown):
        words = [one.word, named(one.outliers).removeprefix(shown[0].outliers.title).lstrip(" ,+")]
        line = f"{', '.join(filter(None, words))}: {verdict(one.outliers)}"
        place = 1 - (TITLE_HEIGHT + TITLE_LINE * index) / height
        panel.text(0.02, place, line, size=9, color=one.colour, va="center")


def _draw_maps(panel: "SubFigure", shown: Sequence[_Shown]) -> None:
    """The images in a row, the norm maps of each encoder under them, and one colour bar."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    count = max(len(one.outliers.examples) for one in shown)
    axes = panel.subplots(
        1 + len(shown), max(count, COLUMNS), squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.06}
    )
    panel.subplots_adjust(top=0.99, bottom=0.03, **MAP_MARGINS)
    for axis in axes.flat:
        bare(axis)
    for axis in axes[:, count:].flat:
        axis.set_visible(False)
    for axis, example in zip(axes[0], shown[0].outliers.examples, strict=False):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(example.thumbnail))))
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
    scale = LogNorm(*_range_of_norms(shown), clip=True)
    for row, one in zip(axes[1:], shown, strict=True):
        row[0].set_ylabel(f"{one.word}\nlayer {one.outliers.shown_layer}".lstrip(), color=one.colour)
        for axis, example in zip(row, one.outliers.examples, strict=False):
            if example.norms:
                axis.imshow(np.array(example.norms), cmap=NORM_COLOURS, norm=scale)
            else:
                axis.text(0.5, 0.5, "not finite", ha="center", va="center", color=FAINT, transform=axis.transAxes)
    bar = panel.colorbar(
        ScalarMappable(scale, NORM_COLOURS), cax=panel.add_axes((MAP_MARGINS["right"] + 0.012, 0.03, 0.012, 0.62))
    )
    in_multiples(bar.ax.yaxis)
    bar.ax.set_title("norm /\nmedian", size=8, color=INK, loc="left")
    bar.ax.grid(visible=False)


def _range_of_norms(shown: Sequence[_Shown]) -> tuple[float, float]:
    """From the least to the most of all maps, and wide enough that noise alone does not fill the colours."""
    examples = [example for one in shown for example in one.outliers.examples]
    positive = [norm for example in examples for row in example.norms for norm in row if norm > 0]
    if not positive:
        return LEAST_RATIO, MOST_RATIO
    return min(float(np.quantile(positive, 0.001)), LEAST_RATIO), max([*positive, MOST_RATIO])


def _draw_lines(panel: "SubFigure", shown: Sequence[_Shown]) -> None:
    """Three panels of lines over the layers, then the places on the grid."""
    widths = [1.0, 1.0, 1.0, *[0.62] * len(shown)]
    axes = panel.subplots(1, len(widths), gridspec_kw={"width_ratios": widths, "wspace": 0.32})
    panel.subplots_adjust(left=0.055, right=0.985, top=0.86, bottom=0.24)
    _draw_norms(axes[0], shown)
    _draw_shares(axes[1], shown)
    _draw_attention(axes[2], shown)
    _draw_positions(axes[3:], shown)
    _explain(panel, axes[:3], shown)


def _draw_norms(axis: "Axes", shown: Sequence[_Shown]) -> None:
    axis.set_title("largest norm / median")
    axis.set_yscale("log")
    axis.axhline(OUTLIER, color=FAINT, linewidth=1, linestyle=":")
    for one in shown:
        _line(axis, one, lambda layer: layer.max_over_median, "patches")
        _line(axis, one, lambda layer: layer.class_token_over_median, "class token")
        _line(axis, one, lambda layer: layer.registers_over_median, "trained registers")
        _line(axis, one, lambda layer: layer.extra_over_median, "test-time registers")
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.9), max(high, MOST_RATIO))
    in_multiples(axis.yaxis)
    _over_layers(axis)


def _draw_shares(axis: "Axes", shown: Sequence[_Shown]) -> None:
    axis.set_title(f"patches above {OUTLIER:g}x, percent")
    for one in shown:
        _line(axis, one, lambda layer: 100 * layer.share_above_3x, "patches")
    axis.set_ylim(0, max(axis.get_ylim()[1], 0.1))
    _over_layers(axis)


def _draw_attention(axis: "Axes", shown: Sequence[_Shown]) -> None:
    axis.set_title("attention received, percent")
    for one in shown:
        _line(axis, one, _received("outliers"), "patches")
        _line(axis, one, _received("class_token"), "class token")
        _line(axis, one, _received("registers"), "trained registers")
        _line(axis, one, _received("extra"), "test-time registers")
    axis.set_ylim(0, max(axis.get_ylim()[1], 1))
    _over_layers(axis)


def _draw_positions(axes: Sequence["Axes"], shown: Sequence[_Shown]) -> None:
    """How many images have an outlier at each place, on one scale."""
    most = max(max(map(max, one.outliers.positions)) for one in shown)
    for axis, one in zip(axes, shown, strict=True):
        bare(axis)
        axis.set_title(f"places {one.word}".rstrip(), color=one.colour if one.word else INK)
        counts: npt.NDArray[np.int64] = np.array(one.outliers.positions)
        axis.imshow(counts, cmap=COUNT_COLOURS, vmin=0, vmax=max(most, 1))
        axis.set_anchor("N")
        found = f"in up to {counts.max():,}" if counts.any() else "in none"
        axis.set_xlabel(
            f"outliers at layer {one.outliers.shown_layer}\n{found} of {one.outliers.images:,} images", size=8
        )


def _received(name: str) -> Callable[[LayerOutliers], float | None]:
    def percent(layer: LayerOutliers) -> float | None:
        share = getattr(layer.attention, name, None)
        return None if share is None else 100 * float(share)

    return percent


def _line(axis: "Axes", one: _Shown, value: Callable[[LayerOutliers], float | None], kind: str) -> None:
    """One number of a kind of tokens over the layers that have it; nothing where none has."""
    points = [(layer.layer, number) for layer in one.outliers.layers if (number := value(layer)) is not None]
    if points:
        marker, width = _KINDS[kind]
        (line,) = axis.plot(*zip(*points, strict=True), color=one.colour, linestyle=one.dashes, label=kind)
        line.set(marker=marker, linewidth=width, markerfacecolor=one.colour if kind == "patches" else "white")


_KINDS: Mapping[str, tuple[str, float]] = {
    "patches": ("o", 1.8),
    "class token": ("^", 1.0),
    "trained registers": ("s", 1.0),
    "test-time registers": ("D", 1.0),
}


def _explain(panel: "SubFigure", axes: Iterable["Axes"], shown: Sequence[_Shown]) -> None:
    """One legend for all lines: whose the colours are, and what the markers."""
    from matplotlib.lines import Line2D

    drawn = {line.get_label() for axis in axes for line in axis.get_lines()}
    entries = [Line2D([], [], color=one.colour, linestyle=one.dashes, label=one.word) for one in shown if one.word]
    for kind, (marker, width) in _KINDS.items():
        if kind in drawn:
            label = "patches (attention: those that entered the layer as outliers)" if kind == "patches" else kind
            face = FAINT if kind == "patches" else "white"
            entries.append(
                Line2D([], [], color=FAINT, marker=marker, linewidth=width, markerfacecolor=face, label=label)
            )
    panel.legend(handles=entries, loc="lower left", bbox_to_anchor=(0.045, 0.01), ncols=len(entries), handlelength=2.6)


def _over_layers(axis: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel("layer")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
