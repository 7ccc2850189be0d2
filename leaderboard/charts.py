"""The board's pictures (Okabe and Ito's colours, told apart by colour-blind readers too)."""

import altair as alt
import pandas as pd

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"]


def quality_against_gflops(runs: pd.DataFrame, metric: str, better: str) -> alt.Chart:
    """A point per run: what it costs against what it gives."""
    arrow = {"lower": " (lower is better)", "higher": " (higher is better)"}.get(better, "")
    chart: alt.Chart = (
        alt.Chart(runs)
        .mark_point(size=90, filled=True, opacity=0.8)
        .encode(
            x=alt.X("gflops:Q", title="GFLOPs of one forward pass", scale=alt.Scale(zero=False)),
            y=alt.Y("value:Q", title=f"{metric}{arrow}", scale=alt.Scale(zero=False)),
            color=alt.Color("registers:N", scale=alt.Scale(range=COLOURS)),
            shape=alt.Shape("backbone:N"),
            tooltip=["backbone", "registers", "stages", "seed", "value", "difference", "gflops", "run_id"],
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
            x=alt.X("time:O", title="t (0 noise, 1 data)"),
            y=alt.Y("block:O", title="after block"),
            color=alt.Color("max_over_median:Q", title="max / median", scale=alt.Scale(scheme="cividis")),
            tooltip=["block", "time", "max_over_median", "share_above_3x", "share_above_5x", "channel_share"],
        )
        .properties(height=240)
    )
    return chart
