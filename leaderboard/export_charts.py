"""Altair's charts as SVG that stands within a page, in its own colours of text (vl-convert draws them, offline)."""

import io
import re
from typing import Any, Final

import altair as alt

from leaderboard.export_html import escaped

WIDTH: Final = 640

# Stands in the drawing for the page's own colour of text, light or dark.
_INK: Final = "#010203"
_NAMED: Final = re.compile(r'(id="|url\(#|href="#)(?=[A-Za-z])')


def figure(chart: alt.LayerChart | alt.Chart, caption: str, name: str) -> str:
    """A chart with its caption; `name` tells its parts from those of the other charts on the page."""
    out = io.StringIO()
    _inked(chart).save(out, format="svg")
    drawn = _NAMED.sub(rf"\g<1>{name}-", out.getvalue()).replace(_INK, "currentColor")
    svg = drawn.replace("<svg ", f'<svg role="img" aria-label="{escaped(caption)}" ', 1)
    return f"<figure>{svg}<figcaption>{escaped(caption, 400)}</figcaption></figure>"


def _inked(chart: Any) -> Any:
    axes = {"labelColor": _INK, "titleColor": _INK, "domainColor": _INK, "tickColor": _INK}
    legend = {"labelColor": _INK, "titleColor": _INK}
    return (
        chart.properties(width=WIDTH)
        .configure(background="transparent")
        .configure_view(stroke=None)
        .configure_axis(**axes, gridOpacity=0.25)
        .configure_legend(**legend)
    )
