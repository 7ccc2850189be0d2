"""The pictures of the page "Outliers": norms by block and noise level, with one scale for all that stand together."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from leaderboard.palette import of_registers

# A chart's height holds its axis and its legend too.
CELL = 30
AXIS, LEGEND_ROW = 120, 24
LINES_HEIGHT = 280


def heat_map(statistics: pd.DataFrame, column: str, title: str, top: float, bottom: float = 0.0) -> alt.Chart:
    """One number by block and noise level; equal numbers have equal colours in all maps from `bottom` to `top`."""
    chart: alt.Chart = (
        alt.Chart(statistics.dropna(subset=[column]))
        .mark_rect()
        .encode(
            x=alt.X(
                "time:O", title="t (0 noise, 1 data)", axis=alt.Axis(labelAngle=0, format="~g", labelOverlap=False)
            ),
            y=alt.Y("block:O", title="after block", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color(
                f"{column}:Q",
                title=title,
                scale=alt.Scale(scheme="cividis", domain=[bottom, top], clamp=True),
                legend=alt.Legend(orient="bottom", gradientLength=200, titleLimit=320, format="~g"),
            ),
            tooltip=[*map(alt.Tooltip, ("block:O", "time:O")), alt.Tooltip(f"{column}:Q", format=".4g")],
        )
        .properties(height=AXIS + CELL * statistics["block"].nunique())
    )
    return chart


def over_blocks(statistics: pd.DataFrame, column: str, title: str, presets: Sequence[str]) -> alt.LayerChart:
    """One number block by block: a line for each `run`, the mean over noise levels, in a band from least to most.

    `presets` are the runs' register presets, in the order in which the runs come.  A run that has none of these numbers
    is not in the legend.
    """
    known = statistics.dropna(subset=[column])
    marks = dict(zip(dict.fromkeys(statistics["run"]), map(of_registers, presets), strict=True))
    runs = list(dict.fromkeys(known["run"]))
    colours, shapes = [marks[run].colour for run in runs], [marks[run].shape for run in runs]
    below = alt.Legend(orient="bottom", columns=1, labelLimit=300, symbolOpacity=1)
    colour = alt.Color("run:N", title=None, legend=below, scale=alt.Scale(domain=runs, range=colours))
    shape = alt.Shape("run:N", title=None, legend=below, scale=alt.Scale(domain=runs, range=shapes))
    base = alt.Chart()
    x = alt.X("block:Q", title="after block", axis=alt.Axis(format="d", tickMinStep=1))
    mean = alt.Y(f"mean({column}):Q", title=title, axis=alt.Axis(format="~g"))
    tips = [
        *map(alt.Tooltip, ("run:N", "block:Q")),
        alt.Tooltip(f"mean({column}):Q", format=".4g", title="mean over t"),
    ]
    return alt.LayerChart(
        data=known,
        layer=[
            base.mark_area(opacity=0.15).encode(
                x=x, y=alt.Y(f"min({column}):Q", title=title), y2=alt.Y2(f"max({column}):Q"), color=colour
            ),
            base.mark_line().encode(x=x, y=mean, color=colour),
            base.mark_point(size=60, filled=True, opacity=1).encode(
                x=x, y=mean, color=colour, shape=shape, tooltip=tips
            ),
        ],
        height=LINES_HEIGHT + LEGEND_ROW * len(runs),
    )
