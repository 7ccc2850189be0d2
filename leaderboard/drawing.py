"""Put charts on a page: each is worked out once, and its specification kept for whoever looks at the same again."""

from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec

import altair as alt
import pandas as pd
import streamlit as st
from altair.utils import schemapi

KEPT: Final = 256
ROWS: Final = "rows"

Asked = ParamSpec("Asked")
Chart = alt.Chart | alt.LayerChart


def draw(
    chart_of: Callable[Concatenate[pd.DataFrame, Asked], Chart],
    table: pd.DataFrame,
    *arguments: Asked.args,
    **named: Asked.kwargs,
) -> None:
    """Draw `chart_of(table, *arguments)`; arguments are plain values or data frames.

    Altair checks every part of a chart against Vega-Lite's schema, for which a reader would wait at each click.
    """
    name = f"{chart_of.__module__}.{chart_of.__qualname__}"
    st.vega_lite_chart(_specification(name, table, arguments, named, chart_of), width="stretch")


@st.cache_data(max_entries=KEPT, show_spinner=False)
def _specification(
    name: str,  # noqa: ARG001 - a part of the cache's key
    table: pd.DataFrame,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    _chart_of: Callable[..., Chart],
) -> dict[str, Any]:
    """A chart as Vega-Lite has it, with its rows as data frames, of which Streamlit sends each once."""
    with schemapi.debug_mode(arg=False):
        chart = _chart_of(table, *arguments, **named)
        rows = chart.data
        if isinstance(rows, pd.DataFrame):
            chart.data = alt.NamedData(name=ROWS)
        specification = chart.to_dict(validate=False)
    datasets = {each: pd.DataFrame(found) for each, found in specification.get("datasets", {}).items()}
    if isinstance(rows, pd.DataFrame):
        datasets[ROWS] = rows
    return {**specification, "datasets": datasets}
