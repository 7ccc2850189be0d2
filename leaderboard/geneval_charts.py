"""The pictures of the page "Text to image": scores by category, and the published curves."""

from collections.abc import Mapping
from typing import Final

import altair as alt
import pandas as pd

from leaderboard.charts import AROUND, NAMES, ROW
from leaderboard.palette import GREY, SHAPES, Mark, colours_of_registers, of_registers, shapes_of_registers

LEGEND: Final = alt.Legend(orient="bottom", columns=1, labelLimit=300, symbolOpacity=1)
# In pixels: one arm within a category, and what sets categories apart.
ARM, BETWEEN = 14, 12
HEIGHT: Final = 260
READ: Final = ["arm", "registers", "title", "mean", "low", "high", "interval", "chance", "measured"]


def by_category(table: pd.DataFrame) -> alt.LayerChart:
    """Every category with the mean of each arm, its 95 % interval, and an upright tick at its chance level, in percent.

    Columns: `READ`; categories and arms stand in the order in which they come.
    """
    known = table[READ]
    arms, categories = list(dict.fromkeys(known["arm"])), list(dict.fromkeys(known["title"]))
    marks = _marks(known)
    band = alt.Scale(paddingInner=0.2)
    y = alt.Y("title:N", title=None, sort=categories, axis=NAMES, scale=band)
    offset = alt.YOffset("arm:N", sort=arms)
    shares = alt.Scale(domain=[0, 100], nice=False)
    x = alt.X("mean:Q", title="right, in percent", scale=shares)
    of_colours = alt.Scale(domain=arms, range=[marks[arm].colour for arm in arms])
    colour = alt.Color("arm:N", title=None, legend=LEGEND, scale=of_colours)
    fill = alt.Fill("arm:N", title=None, legend=LEGEND, scale=of_colours)
    of_shapes = alt.Scale(domain=arms, range=[marks[arm].shape for arm in arms])
    shape = alt.Shape("arm:N", title=None, legend=LEGEND, scale=of_shapes)
    tips = [
        *(alt.Tooltip("arm:N"), alt.Tooltip("title:N", title="category"), alt.Tooltip("measured:Q", title="seeds")),
        *(alt.Tooltip(f"{name}:Q", format=".1f") for name in ("mean", "low", "high", "chance")),
        alt.Tooltip("interval:N", title="interval over"),
    ]
    rows = alt.Chart().encode(y=y, yOffset=offset, color=colour, tooltip=tips)
    layers: list[alt.Chart] = [rows.mark_point(size=60, strokeWidth=2, opacity=1).encode(x=x, fill=fill, shape=shape)]
    if known["low"].notna().any():
        lines = rows.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, clip=True)
        layers.insert(0, lines.encode(x=alt.X("low:Q", scale=shares), x2=alt.X2("high:Q")))
    if known["chance"].notna().any():
        ticks = alt.Chart().transform_filter("isValid(datum.chance)")
        ticks = ticks.mark_tick(color=GREY, thickness=3, size=ARM, orient="vertical", opacity=1)
        layers.insert(0, ticks.encode(x=alt.X("chance:Q", scale=shares), y=y, yOffset=offset, tooltip=tips))
    height = AROUND + len(categories) * (ARM * len(arms) + BETWEEN) + ROW * len(arms)
    return alt.LayerChart(data=known, layer=layers, height=height)


def quoted_curves(curves: pd.DataFrame, title: str) -> alt.LayerChart:
    """One published score over training steps, with registers and without; what was partly hidden is hollow.

    Columns: registers, arm, steps, value (percent), is_hidden.
    """
    presets = sorted(set(curves["registers"]))
    colours, shapes = colours_of_registers(presets), shapes_of_registers(presets)
    legend = alt.Legend(orient="bottom", symbolOpacity=1)
    x = alt.X("steps:Q", title="training steps", axis=alt.Axis(format=",d", values=sorted(set(curves["steps"]))))
    y = alt.Y("value:Q", title=f"{title}, percent, as quoted", scale=alt.Scale(zero=False, padding=12))
    colour = alt.Color("registers:N", title=None, legend=legend, scale=colours)
    shape = alt.Shape("registers:N", title=None, legend=legend, scale=shapes)
    fill = alt.Fill("registers:N", title=None, legend=legend, scale=colours)
    tips = [
        *(alt.Tooltip("registers:N"), alt.Tooltip("arm:N"), alt.Tooltip("steps:Q", format=",d")),
        *(alt.Tooltip("value:Q", format=".1f"), alt.Tooltip("is_hidden:N", title="marker partly hidden")),
    ]
    points = alt.Chart().mark_point(size=90, strokeWidth=2, opacity=1).encode(x=x, y=y, color=colour, shape=shape)
    layers: list[alt.Chart] = [
        alt.Chart().mark_line(strokeWidth=1.8).encode(x=x, y=y, color=colour),
        points.transform_filter("datum.is_hidden").encode(tooltip=tips),
    ]
    if not curves["is_hidden"].all():
        layers.append(points.transform_filter("!datum.is_hidden").encode(fill=fill, tooltip=tips))
    return alt.LayerChart(data=curves, layer=layers, height=HEIGHT + ROW)


def _marks(known: pd.DataFrame) -> Mapping[str, Mark]:
    """Those of the arms' presets; arms of one preset differ in their shapes."""
    taken: dict[str, Mark] = {}
    for arm, preset in known.drop_duplicates("arm")[["arm", "registers"]].itertuples(index=False):
        mark = of_registers(preset)
        others = [Mark(mark.colour, shape) for shape in SHAPES]
        taken[arm] = next((each for each in (mark, *others) if each not in taken.values()), mark)
    return taken
