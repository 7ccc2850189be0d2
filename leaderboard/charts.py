"""The pictures of the leaderboard and of a run, in colours of the palette."""

from typing import Final

import altair as alt
import pandas as pd

from leaderboard.palette import BLUE, GREY, VERMILION
from leaderboard.text import short

ROW: Final = 22
LEAST: Final = 90
BELOW: Final = alt.Legend(orient="bottom", columns=2, labelLimit=260, symbolLimit=40)

# What a difference shows -> how it is drawn: the shape says it too.
_VERDICTS: Final = {
    "better": (BLUE, "square"),
    "worse": (VERMILION, "diamond"),
    "larger": (BLUE, "triangle-right"),
    "smaller": (VERMILION, "triangle-left"),
    "nothing shown": (GREY, "circle"),
}


def differences(arms: pd.DataFrame, title: str) -> alt.LayerChart:
    """A row for each arm of `differences.judged_arms` that has an interval: its difference to none, and 95 % of it."""
    known = pd.DataFrame(
        {
            "arm": [f"{short(str(row.backbone), 40)} · {short(str(row.label), 60)}" for row in arms.itertuples()],
            **{name: arms[name].to_numpy() for name in ("difference", "low", "high", "pairs", "verdict")},
        }
    )
    seen = [verdict for verdict in _VERDICTS if verdict in set(known["verdict"])]
    colours = alt.Scale(domain=seen, range=[_VERDICTS[verdict][0] for verdict in seen])
    shapes = alt.Scale(domain=seen, range=[_VERDICTS[verdict][1] for verdict in seen])
    y = alt.Y("arm:N", title=None, sort=list(known["arm"]), axis=alt.Axis(labelLimit=190))
    colour = alt.Color("verdict:N", title=None, scale=colours, legend=BELOW)
    shape = alt.Shape("verdict:N", title=None, scale=shapes, legend=BELOW)
    tips: list[str | alt.Tooltip] = [
        "arm",
        "pairs",
        *(alt.Tooltip(f"{name}:Q", format="+.4g") for name in ("difference", "low", "high")),
    ]
    base = alt.Chart(known).encode(y=y, color=colour, tooltip=tips)
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=GREY, strokeWidth=1.5).encode(x="zero:Q")
    return alt.LayerChart(
        layer=[
            zero,
            base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q"),
            base.mark_point(size=70, filled=True, opacity=1).encode(x=alt.X("difference:Q", title=title), shape=shape),
        ],
        height=LEAST + ROW * len(known),
    )


def loss_curves(curves: pd.DataFrame) -> alt.Chart:
    """The training loss of a run and of its matched one: columns run, step, loss."""
    runs = list(dict.fromkeys(curves["run"]))
    colours = alt.Scale(domain=runs, range=[BLUE, GREY][: len(runs)])
    dashes = alt.Scale(domain=runs, range=[[1, 0], [5, 3]][: len(runs)])
    chart: alt.Chart = (
        alt.Chart(curves)
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X("step:Q", title="training step"),
            y=alt.Y("loss:Q", title="training loss", scale=_loss_scale(curves)),
            color=alt.Color("run:N", title=None, scale=colours, legend=BELOW),
            strokeDash=alt.StrokeDash("run:N", title=None, scale=dashes, legend=BELOW),
            tooltip=["run", "step", alt.Tooltip("loss:Q", format=".4g")],
        )
        .properties(height=300)
    )
    return chart


def outlier_map(statistics: pd.DataFrame) -> alt.Chart:
    """Largest patch-token norm over the median, by block and noise level."""
    chart: alt.Chart = (
        alt.Chart(statistics)
        .mark_rect()
        .encode(
            x=alt.X("time:O", title="t (0 noise, 1 data)", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("block:O", title="after block"),
            color=alt.Color("max_over_median:Q", title="max / median", scale=alt.Scale(scheme="cividis")),
            tooltip=["block", "time", "max_over_median", "share_above_3x", "share_above_5x", "channel_share"],
        )
        .properties(height=300)
    )
    return chart


def _loss_scale(curves: pd.DataFrame) -> alt.Scale:
    """A logarithm shows how a loss falls, where every loss has one."""
    return alt.Scale(type="log", nice=False) if (curves["loss"] > 0).all() else alt.Scale(zero=False)
