"""The picture of differences to the runs without registers, the same on every page."""

from typing import Final

import altair as alt
import pandas as pd

from leaderboard.palette import BLUE, GREY, PURPLE, VERMILION

ROW: Final = 22
# A chart's height holds its axis and its legend too.
AROUND: Final = 110
BELOW: Final = alt.Legend(orient="bottom", columns=1, labelLimit=300, symbolLimit=40, symbolOpacity=1)
NAMES: Final = alt.Axis(labelLimit=190, labelOverlap=False, labelFlush=False)

# What a difference shows -> its colour, shape and filling: what rests on one seed is hollow, and its interval dashed.
HOLLOW, DASHES = "transparent", [4, 3]
VERDICTS: Final = {
    "helps": (BLUE, "square", BLUE),
    "harms": (VERMILION, "diamond", VERMILION),
    "larger": (BLUE, "triangle-right", BLUE),
    "smaller": (VERMILION, "triangle-left", VERMILION),
    "one seed: a hint": (PURPLE, "triangle-up", HOLLOW),
    "shows nothing": (GREY, "circle", GREY),
    "changed nothing": (GREY, "cross", GREY),
    "not known": (GREY, "circle", HOLLOW),
}
READ: Final = ["name", "difference", "low", "high", "pairs", "verdict"]


def differences(known: pd.DataFrame, title: str) -> alt.LayerChart:
    """A row for each difference, with its 95 % interval where it has one.

    Columns: `READ`; rows stand in the order in which they come.
    """
    known = known[READ].dropna(subset=["difference"])
    seen = [verdict for verdict in VERDICTS if verdict in set(known["verdict"])]
    y = alt.Y("name:N", title=None, sort=list(known["name"]), axis=NAMES)
    colour = alt.Color("verdict:N", title=None, legend=BELOW, scale=_verdict_scale(seen, 0))
    shape = alt.Shape("verdict:N", title=None, legend=BELOW, scale=_verdict_scale(seen, 1))
    fill = alt.Fill("verdict:N", title=None, legend=BELOW, scale=_verdict_scale(seen, 2))
    is_dashed = alt.FieldOneOfPredicate("verdict", [verdict for verdict in seen if VERDICTS[verdict][2] == HOLLOW])
    dash = alt.condition(is_dashed, alt.value(DASHES), alt.value([1, 0]))
    x = alt.X("difference:Q", title=title)
    tips: list[str | alt.Tooltip] = [
        *("name:N", "verdict:N", "pairs:Q"),
        *(alt.Tooltip(f"{name}:Q", format="+.4g") for name in ("difference", "low", "high")),
    ]
    rows = alt.Chart().encode(y=y, color=colour, tooltip=tips)
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=GREY, strokeWidth=1.5).encode(x=alt.X("zero:Q"))
    points = rows.mark_point(size=70, strokeWidth=2, opacity=1).encode(x=x, shape=shape, fill=fill)
    layers = [zero, points]
    if known["low"].notna().any():
        lines = rows.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
        layers.insert(1, lines.encode(x=alt.X("low:Q", title=title), x2=alt.X2("high:Q"), strokeDash=dash))
    return alt.LayerChart(data=known, layer=layers, height=AROUND + ROW * (len(known) + len(seen)))


def _verdict_scale(seen: list[str], channel: int) -> alt.Scale:
    return alt.Scale(domain=seen, range=[VERDICTS[verdict][channel] for verdict in seen])
