"""The pictures of the page "Compare": the palette's colours and shapes, and none that rests on colour alone."""

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from leaderboard.palette import GREY, colours_of_registers, of_backbone, of_registers, shapes_of_registers

# A chart's height holds its axis and its legend too.
TWICE = alt.Legend(orient="bottom", columns=2, labelLimit=150, symbolLimit=80, symbolOpacity=1)
LINES = alt.Legend(orient="bottom", columns=1, labelLimit=300, symbolType="stroke", symbolSize=600, symbolOpacity=1)
LEGEND_ROW, AXIS = 22, 110
HEIGHT = 340
# Points that lie on each other are drawn so far apart, as a share of the GFLOPs that a chart spans.
APART = 0.02
# Of a heat map's cell: from this share of the scale on its colour is dark, and its number white.
DARK = 0.55
PALE = "#e6e6e6"


def arrow(better: str) -> str:
    """What stands behind the name of a metric."""
    return {"lower": " (lower is better)", "higher": " (higher is better)"}.get(better, "")


def quality_against_gflops(table: pd.DataFrame, front: Sequence[str], title: str, better: str) -> alt.LayerChart:
    """A point for each arm of `compare_queries.arms`, its deviation over seeds, and the Pareto front as named steps.

    Arms that were trained for another time are hollow.  Equal arms stand beside each other.
    """
    known = _beside_each_other(table.dropna(subset=["gflops", "mean"]))
    known = known.assign(
        low=known["mean"] - known["deviation"],
        high=known["mean"] + known["deviation"],
        is_on_front=known["arm"].isin(front),
        label=known.get("label", known["registers"]),
        has_other_length=known.get("has_other_length", default=False),
    )
    x = alt.X("x:Q", title="GFLOPs of one forward pass", scale=alt.Scale(zero=False, padding=24))
    y = alt.Y("mean:Q", title=f"{title}{arrow(better)}", scale=alt.Scale(zero=False, padding=16))
    presets = sorted(set(known["registers"]))
    colour = alt.Color("registers:N", title=None, legend=TWICE, scale=colours_of_registers(presets))
    shape = alt.Shape("registers:N", title=None, legend=TWICE, scale=shapes_of_registers(presets))
    filled = alt.Fill("registers:N", title=None, legend=TWICE, scale=colours_of_registers(presets))
    tips = [
        *(alt.Tooltip("arm:N"), alt.Tooltip("mean:Q", format=".4g"), alt.Tooltip("deviation:Q", format=".3g")),
        *(alt.Tooltip("measured:Q", title="seeds"), alt.Tooltip("gflops:Q", format=".4g")),
    ]
    points = alt.Chart().mark_point(size=110, strokeWidth=2, opacity=0.95)
    layers = []
    if not known["has_other_length"].all():
        full = points.transform_filter("!datum.has_other_length")
        layers.append(full.encode(x=x, y=y, color=colour, fill=filled, shape=shape, tooltip=tips))
    if known["has_other_length"].any():
        hollow = points.transform_filter("datum.has_other_length")
        layers.append(hollow.encode(x=x, y=y, color=colour, shape=shape, tooltip=tips))
    if known["low"].notna().any():
        bars = alt.Chart().transform_filter("isValid(datum.low)").mark_rule(opacity=0.7)
        layers.insert(0, bars.encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=colour))
    if known["is_on_front"].any():
        on_front = alt.Chart().transform_filter("datum.is_on_front")
        steps = on_front.mark_line(interpolate="step-after", color=GREY, strokeDash=[6, 3])
        layers.insert(0, steps.encode(x=x, y=y, order=alt.Order("gflops:Q")))
        layers.append(on_front.mark_point(size=320, color=GREY, strokeWidth=1.5).encode(x=x, y=y, tooltip=tips))
        layers += [each.encode(x=x, y=y, text=alt.Text("label:N")) for each in _names(known)]
    return alt.LayerChart(data=known, layer=layers, height=HEIGHT + LEGEND_ROW * (1 + len(presets) // 2))


def learning_curves(curves: pd.DataFrame, arms: pd.DataFrame) -> alt.LayerChart:
    """The loss of each arm: mean over seeds, and a band from the least to the most of any.

    `curves` as of `compare_queries.curves`; `arms` has arm, registers and backbone.
    """
    names = [name for name in arms["arm"] if name in set(curves["arm"])]
    known = arms.set_index("arm").loc[names].reset_index()
    colour = alt.Color("arm:N", title=None, legend=LINES, scale=alt.Scale(domain=names, range=_colours(known)))
    dash = alt.StrokeDash("arm:N", title=None, legend=LINES, scale=alt.Scale(domain=names, range=_dashes(len(names))))
    x = alt.X("step:Q", title="training step")
    low, high = float(curves["least"].min()), float(curves["most"].max())
    scale = alt.Scale(type="log", nice=False) if low > 0 else alt.Scale(zero=False)
    axis = alt.Axis(values=_ticks(low, high), format="~g") if low > 0 else alt.Axis()
    y = alt.Y("loss:Q", title="training loss", scale=scale, axis=axis)
    tips = [
        *map(alt.Tooltip, ("arm:N", "step:Q", "seeds:Q")),
        alt.Tooltip("loss:Q", format=".4g"),
    ]
    band = alt.Chart().mark_area(opacity=0.15)
    line = alt.Chart().mark_line(strokeWidth=1.8)
    layers = [line.encode(x=x, y=y, color=colour, strokeDash=dash, tooltip=tips)]
    if (curves["seeds"] > 1).any():
        lowest = alt.Y("least:Q", title="training loss", scale=scale, axis=axis)
        layers.insert(0, band.encode(x=x, y=lowest, y2=alt.Y2("most:Q"), color=colour))
    return alt.LayerChart(data=curves, layer=layers, height=HEIGHT + LEGEND_ROW * len(names))


def effect_map(cells: pd.DataFrame, title: str) -> alt.LayerChart:
    """The difference to none by count and start block of `compare_queries.effects`: colour, and the number in words.

    The scale reaches as far as any interval; a cell is pale where zero lies inside its interval or there is none.
    """
    ends = cells[["difference", "low", "high"]].abs()
    most = float(ends.max().max()) or 1.0
    known = cells.assign(written=[_written(row) for _, row in cells.iterrows()], shows=is_shown(cells))
    colour = alt.Color(
        "difference:Q",
        title=title,
        scale=alt.Scale(scheme="purpleorange", domain=[-most, most], domainMid=0),
        legend=alt.Legend(orient="bottom", gradientLength=220, titleLimit=320),
    )
    x = alt.X("tokens:O", title="registers", sort=list(dict.fromkeys(known["tokens"])), axis=alt.Axis(labelAngle=0))
    y = alt.Y("start_block:O", title="from block", axis=alt.Axis(format="d"))
    tips = [
        *map(alt.Tooltip, ("tokens:O", "start_block:O", "pairs:Q", "verdict:N")),
        *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("difference", "low", "high")),
    ]
    is_dark = f"datum.shows && abs(datum.difference) > {DARK * most}"
    layers = [
        alt.Chart().mark_rect(color=PALE).encode(x=x, y=y, tooltip=tips),
        alt.Chart()
        .mark_text(fontSize=13, lineBreak="\n", align="center", baseline="middle")
        .encode(
            x=x,
            y=y,
            text=alt.Text("written:N"),
            color=alt.condition(is_dark, alt.value("white"), alt.value("black")),
        ),
    ]
    if known["shows"].any():
        coloured = alt.Chart().transform_filter("datum.shows").mark_rect()
        layers.insert(1, coloured.encode(x=x, y=y, color=colour, tooltip=tips))
    height = AXIS + 3 * LEGEND_ROW + 56 * cells["start_block"].nunique()
    return alt.LayerChart(data=known, layer=layers, height=height)


def is_shown(table: pd.DataFrame) -> pd.Series:
    """Which differences show something: neither nothing nor a hint of one seed."""
    return table["verdict"].isin(["helps", "harms", "larger", "smaller"])


def _written(cell: pd.Series) -> str:
    """A difference with its interval, and the pairs that it rests on."""
    interval = "" if pd.isna(cell["half_width"]) else f" ± {cell['half_width']:.2g}"
    pairs = "1 pair" if cell["pairs"] == 1 else f"{cell['pairs']} pairs"
    return f"{cell['difference']:+.3g}{interval}\n{pairs}".replace("-", "−")


def _beside_each_other(table: pd.DataFrame) -> pd.DataFrame:
    """Where each arm is drawn: `x` is its GFLOPs, but for those that another arm has already, with the same mean."""
    number = table.groupby(["gflops", "mean"]).cumcount()
    span = float(table["gflops"].max() - table["gflops"].min()) or float(table["gflops"].max()) or 1.0
    return table.assign(x=table["gflops"] + APART * span * number)


def _names(known: pd.DataFrame) -> list[alt.Chart]:
    """What stands beside the front's points: towards the middle, for there is room."""
    middle = (float(known["x"].min()) + float(known["x"].max())) / 2
    on_front = known[known["is_on_front"]]["x"]
    layers: list[alt.Chart] = []
    if (on_front <= middle).any():
        left = alt.Chart().transform_filter(f"datum.is_on_front && datum.x <= {middle!r}")
        layers.append(left.mark_text(align="left", dx=14, dy=-12, fontSize=12, color=GREY))
    if (on_front > middle).any():
        right = alt.Chart().transform_filter(f"datum.is_on_front && datum.x > {middle!r}")
        layers.append(right.mark_text(align="right", dx=-14, dy=-12, fontSize=12, color=GREY))
    return layers


def _ticks(low: float, high: float) -> list[float]:
    """Numbers that begin with 1, 2 or 5 from `low` to `high`; at least the two ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    inside = [each for each in found if low <= each <= high]
    return inside if len(inside) > 1 else sorted({*inside, float(f"{low:.2g}"), float(f"{high:.2g}")})


def _colours(arms: pd.DataFrame) -> list[str]:
    """By preset; where all arms have the same one, by backbone."""
    if arms["registers"].nunique() > 1 or arms["backbone"].nunique() == 1:
        return [of_registers(preset).colour for preset in arms["registers"]]
    return [of_backbone(name).colour for name in arms["backbone"]]


def _dashes(count: int) -> list[list[int]]:
    patterns = [[1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 4], [12, 4], [2, 5], [6, 2, 2, 2]]
    return [patterns[index % len(patterns)] for index in range(count)]
