"""The board's pictures (Tol's discrete rainbow, whose colours colour-blind readers can tell apart too)."""

import altair as alt
import pandas as pd

COLOURS = [
    *("#D1BBD7", "#AE76A3", "#882E72", "#1965B0", "#5289C7", "#7BAFDE", "#4EB265"),
    *("#90C987", "#CAE0AB", "#F7F056", "#F6C141", "#F1932D", "#E8601C", "#DC050C"),
]


BELOW = alt.Legend(orient="bottom", columns=3)


def quality_against_gflops(runs: pd.DataFrame, metric: str, better: str) -> alt.Chart:
    """A point per run: what it costs against what it gives."""
    arrow = {"lower": " (lower is better)", "higher": " (higher is better)"}.get(better, "")
    chart: alt.Chart = (
        alt.Chart(runs)
        .mark_point(size=90, filled=True, opacity=0.8)
        .encode(
            x=alt.X("gflops:Q", title="GFLOPs of one forward pass", scale=alt.Scale(zero=False)),
            y=alt.Y("value:Q", title=f"{metric}{arrow}", scale=alt.Scale(zero=False)),
            color=alt.Color("registers:N", scale=alt.Scale(range=COLOURS), legend=BELOW),
            shape=alt.Shape("backbone:N", legend=BELOW),
            tooltip=["backbone", "registers", "stages", "seed", "value", "difference", "gflops", "run_id"],
        )
        .properties(height=420)
    )
    return chart


def outlier_map(statistics: pd.DataFrame) -> alt.Chart:
    """Largest patch-token norm over the median, by block and noise level."""
    chart: alt.Chart = (
        alt.Chart(statistics)
        .mark_rect()
        .encode(
            x=alt.X("time:O", title="t (0 noise, 1 data)"),
            y=alt.Y("block:O", title="after block"),
            color=alt.Color("max_over_median:Q", title="max / median", scale=alt.Scale(scheme="cividis")),
            tooltip=["block", "time", "max_over_median", "share_above_3x", "share_above_5x", "channel_share"],
        )
        .properties(height=240)
    )
    return chart
