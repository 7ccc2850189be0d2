"""The pictures of the page "Compare": the palette's colours and shapes, and none that rests on colour alone."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from leaderboard.palette import (
    GREY,
    VERMILION,
    colours_of_registers,
    of_backbone,
    of_registers,
    shapes_of_backbones,
)

# A chart's height holds its axis and its legend too.
BELOW = alt.Legend(orient="bottom", columns=1, labelLimit=300, symbolLimit=40, symbolOpacity=1)
TWICE = alt.Legend(orient="bottom", columns=2, labelLimit=150, symbolLimit=80, symbolOpacity=1)
LEGEND_ROW, AXIS = 22, 110
ROW = 28
HEIGHT = 340
NAMES_WIDTH = 210
READINGS = ["nothing is shown", "different"]
# Of a heat map's cell: from this share of the largest difference on its colour is dark, and its number white.
DARK = 0.55


def arrow(better: str) -> str:
    """What stands behind the name of a metric."""
    return {"lower": " (lower is better)", "higher": " (higher is better)"}.get(better, "")


def differences(table: pd.DataFrame, title: str) -> alt.LayerChart:
    """A line for each row: its difference with the 95 % interval, a grey circle where that shows nothing.

    Columns: name, and those of a difference in `compare_queries`.
    """
    is_open = table["verdict"].isin(["nothing shown", "not known"])
    known = table.assign(reading=[READINGS[0] if each else READINGS[1] for each in is_open])
    names = alt.Y(
        "name:N", title=None, sort=list(known["name"]), axis=alt.Axis(labelLimit=NAMES_WIDTH, labelOverlap=False)
    )
    colour = alt.Color("reading:N", title=None, legend=BELOW, scale=alt.Scale(domain=READINGS, range=[GREY, VERMILION]))
    shapes = alt.Scale(domain=READINGS, range=["circle", "diamond"])
    tips = [
        *(
            alt.Tooltip("name:N"),
            alt.Tooltip("difference:Q", format=".4g"),
            alt.Tooltip("half_width:Q", format=".3g", title="± 95 %"),
        ),
        *(alt.Tooltip("pairs:Q"), alt.Tooltip("verdict:N")),
    ]
    base = alt.Chart(known)
    return alt.LayerChart(
        layer=[
            alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x=alt.X("zero:Q")),
            base.transform_filter("isValid(datum.low)")
            .mark_rule(strokeWidth=2)
            .encode(y=names, x=alt.X("low:Q", title=title), x2=alt.X2("high:Q"), color=colour, tooltip=tips),
            base.mark_point(size=80, filled=True, opacity=1).encode(
                y=names,
                x=alt.X("difference:Q", title=title),
                color=colour,
                shape=alt.Shape("reading:N", title=None, scale=shapes, legend=BELOW),
                tooltip=tips,
            ),
        ],
        height=AXIS + LEGEND_ROW * len(READINGS) + ROW * (1 + len(known)),
    )


def quality_against_gflops(table: pd.DataFrame, front: Sequence[str], title: str, better: str) -> alt.LayerChart:
    """A point for each arm of `compare_queries.arms`, its deviation over seeds, and the Pareto front as steps."""
    known = table.assign(low=table["mean"] - table["deviation"], high=table["mean"] + table["deviation"])
    x = alt.X("gflops:Q", title="GFLOPs of one forward pass", scale=alt.Scale(zero=False, padding=24))
    y = alt.Y("mean:Q", title=f"{title}{arrow(better)}", scale=alt.Scale(zero=False, padding=16))
    presets, backbones = set(known["registers"]), set(known["backbone"])
    colour = alt.Color("registers:N", title="registers", legend=TWICE, scale=colours_of_registers(presets))
    shape = alt.Shape("backbone:N", title="backbone", legend=TWICE, scale=shapes_of_backbones(backbones))
    tips = [
        *(alt.Tooltip("arm:N"), alt.Tooltip("mean:Q", format=".4g"), alt.Tooltip("deviation:Q", format=".3g")),
        *(alt.Tooltip("measured:Q"), alt.Tooltip("gflops:Q", format=".4g")),
    ]
    base = alt.Chart(known)
    on_front = alt.Chart(known[known["arm"].isin(front)])
    return alt.LayerChart(
        layer=[
            on_front.mark_line(interpolate="step-after", color=GREY, strokeDash=[6, 3]).encode(
                x=x, y=y, order=alt.Order("gflops:Q")
            ),
            base.transform_filter("isValid(datum.low)")
            .mark_rule(opacity=0.7)
            .encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=colour),
            base.mark_point(size=110, filled=True, opacity=0.95).encode(
                x=x, y=y, color=colour, shape=shape, tooltip=tips
            ),
            on_front.mark_point(size=320, color=GREY, strokeWidth=1.5).encode(x=x, y=y, tooltip=tips),
        ],
        height=HEIGHT + LEGEND_ROW * (3 + len(presets) // 2 + len(backbones) // 2),
    )


def learning_curves(curves: pd.DataFrame, arms: pd.DataFrame) -> alt.LayerChart:
    """The loss of each arm: mean over seeds, and a band from the least to the most of any."""
    names = [name for name in arms["arm"] if name in set(curves["arm"])]
    known = arms.set_index("arm").loc[names].reset_index()
    colour = alt.Color("arm:N", title=None, legend=BELOW, scale=alt.Scale(domain=names, range=_colours(known)))
    dash = alt.StrokeDash("arm:N", title=None, legend=BELOW, scale=alt.Scale(domain=names, range=_dashes(len(names))))
    base = alt.Chart(curves)
    x = alt.X("step:Q", title="training step")
    scale = alt.Scale(type="log", nice=False)
    y = alt.Y("loss:Q", title="training loss", scale=scale)
    names_of = ("arm:N", "step:Q", "seeds:Q")
    tips = [*map(alt.Tooltip, names_of), alt.Tooltip("loss:Q", format=".4g")]
    return alt.LayerChart(
        layer=[
            base.mark_area(opacity=0.15).encode(
                x=x, y=alt.Y("least:Q", scale=scale), y2=alt.Y2("most:Q"), color=colour
            ),
            base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=colour, strokeDash=dash, tooltip=tips),
        ],
        height=HEIGHT + LEGEND_ROW * len(names),
    )


def effect_map(cells: pd.DataFrame, title: str) -> alt.LayerChart:
    """The difference to none by count and start block of `compare_queries.effects`: colour, and the number in words."""
    most = float(cells["difference"].abs().max()) or 1.0
    known = cells.assign(written=[f"{row.difference:+.3g} ({row.pairs})" for row in cells.itertuples()])
    colour = alt.Color(
        "difference:Q",
        title=title,
        scale=alt.Scale(scheme="purpleorange", domain=[-most, most], domainMid=0),
        legend=alt.Legend(orient="bottom", gradientLength=220, titleLimit=320),
    )
    base = alt.Chart(known).encode(
        x=alt.X("count:O", title="registers", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("start_block:O", title="from block"),
    )
    is_dark = f"abs(datum.difference) > {DARK * most}"
    return alt.LayerChart(
        layer=[
            base.mark_rect().encode(
                color=colour,
                tooltip=[
                    *map(alt.Tooltip, ("count:O", "start_block:O", "pairs:Q")),
                    alt.Tooltip("difference:Q", format=".4g"),
                ],
            ),
            base.mark_text(fontSize=13).encode(
                text=alt.Text("written:N"), color=alt.condition(is_dark, alt.value("white"), alt.value("black"))
            ),
        ],
        height=AXIS + 3 * LEGEND_ROW + 44 * cells["start_block"].nunique(),
    )


def _colours(arms: pd.DataFrame) -> list[str]:
    """By preset; where all arms have the same one, by backbone."""
    if arms["registers"].nunique() > 1 or arms["backbone"].nunique() == 1:
        return [of_registers(preset).colour for preset in arms["registers"]]
    return [of_backbone(name).colour for name in arms["backbone"]]


def _dashes(count: int) -> list[list[int]]:
    patterns = [[1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 4], [12, 4], [2, 5], [6, 2, 2, 2]]
    return [patterns[index % len(patterns)] for index in range(count)]
