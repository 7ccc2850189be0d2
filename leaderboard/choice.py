"""What the sidebar chooses on every page: one task, one protocol, one comparability key, kept in the address."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from leaderboard import queries
from leaderboard.answers import cached
from leaderboard.queries import Board
from leaderboard.text import short
from leaderboard.view import View

NO_RESULTS = "No results yet. Start with `python -m harness run --backbone sit --registers dsr`."
UNMEASURED = "nothing measured"


@dataclass(frozen=True)
class Choice:
    """The board that is looked at, and what its values are: "lower", "higher" or "neither" is better.

    `metric` is "" where no run of the board measured anything.
    """

    board: Board
    metric: str
    title: str
    better: str
    unit: str


def choose(view: View) -> Choice | None:
    """Draw the selectors; None, and a sentence in their place, where there are no results.

    They stand in the address as `task`, `protocol` and `key`, and stay what they were on the way to another page.
    """
    boards = cached(queries.boards, view)
    if boards.empty:
        st.info(NO_RESULTS)
        return None
    with st.sidebar:
        task = _select("Task", "task", list(dict.fromkeys(boards["task"])), short)
        protocols = list(boards[boards["task"] == task]["protocol"])
        help_ = "How many images, of which size, with which labels. Values are compared within one protocol only."
        protocol = _select("Protocol", "protocol", protocols, short, help_)
        metrics = cached(queries.metrics, view, task, protocol).set_index("key")
        if metrics.empty:
            return Choice(Board(task, protocol, ""), "", UNMEASURED, "neither", "no run measured anything")
        titles = dict(zip(metrics.index, metrics["title"], strict=True))
        key = _select(
            "Metric",
            "key",
            list(titles),
            lambda key: f"{short(titles[key])} [{key[:6]}]",
            "What was measured, against what, by which extractor. The digits are the comparability key's: "
            "values under another key are listed below the tables, and never mixed with these.",
        )
    name, title, better, unit = (str(metrics[column][key]) for column in ("name", "title", "better", "unit"))
    return Choice(Board(task, protocol, key), name, title, better, unit)


def _select(label: str, key: str, options: Sequence[str], words: Callable[[str], str], help_: str = "") -> str:
    """A selector that stands in the address as `key`; what it was on another page it is on this one."""
    remembered = st.session_state.get(f"chosen {key}")
    if key not in st.session_state and key not in st.query_params and remembered in options:
        st.session_state[key] = remembered
    chosen = str(st.selectbox(label, options, format_func=words, key=key, help=help_ or None, bind="query-params"))
    st.session_state[f"chosen {key}"] = chosen
    return chosen
