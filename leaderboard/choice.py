"""What the sidebar chooses on every page: one task, one protocol, one comparability key, kept in the address."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import duckdb
import pandas as pd
import streamlit as st

from leaderboard import queries
from leaderboard.answers import cached
from leaderboard.queries import Board
from leaderboard.text import plain, short
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


@dataclass(frozen=True)
class Offered:
    """What a page lets a reader choose from: questions as `queries.boards` and `queries.metrics`.

    `nothing` is said where there is no board.
    """

    boards: Callable[[duckdb.DuckDBPyConnection], pd.DataFrame] = queries.boards
    metrics: Callable[[duckdb.DuckDBPyConnection, str, str], pd.DataFrame] = queries.metrics
    nothing: str = NO_RESULTS


EVERYTHING = Offered()


def choose(view: View, offered: Offered = EVERYTHING) -> Choice | None:
    """Draw the selectors; None, and a sentence in their place, where there are no results.

    Once one of them was chosen, or given by the address, all three stand there as `task`, `protocol` and `key`, so that
    a copied address shows the same when records were added.  They stay what they were on the way to another page.
    """
    boards = cached(offered.boards, view)
    if boards.empty:
        st.info(offered.nothing)
        return None
    with st.sidebar:
        task = _select("Task", "task", list(dict.fromkeys(boards["task"])), short)
        protocols = list(boards[boards["task"] == task.value]["protocol"])
        help_ = "How many images, of which size, with which labels. Values are compared within one protocol only."
        protocol = _select("Protocol", "protocol", protocols, short, help_)
        metrics = cached(offered.metrics, view, task.value, protocol.value).set_index("key")
        if metrics.empty:
            _keep_in_address(task, protocol)
            board = Board(task.value, protocol.value, "")
            return Choice(board, "", UNMEASURED, "neither", "no run measured anything")
        titles = dict(zip(metrics.index, metrics["title"], strict=True))
        key = _select(
            "Metric",
            "key",
            list(titles),
            lambda key: f"{short(titles[key])} [{key[:6]}]",
            "What was measured, against what, by which extractor. The digits are the comparability key's: "
            "values under another key are listed below the tables, and never mixed with these.",
        )
    _keep_in_address(task, protocol, key)
    name, title, better, unit = (str(metrics[column][key.value]) for column in ("name", "title", "better", "unit"))
    return Choice(Board(task.value, protocol.value, key.value), name, title, better, unit)


def is_not_here(label: str, values: Sequence[str]) -> None:
    """Say that the address asks for what these results do not have."""
    if values:
        asked = ", ".join(plain(value, 60) for value in values)
        st.warning(f"The address asks for {label.lower()} {asked}, which is not here.")


@dataclass(frozen=True)
class _Selected:
    """What a selector says, and whether anybody said so: the address, another page, or a reader who chose it."""

    key: str
    value: str
    is_given: bool


def _select(label: str, key: str, options: Sequence[str], words: Callable[[str], str], help_: str = "") -> _Selected:
    """A selector of values that its words do not stand for in the address, which a bound widget would put there."""
    asked, remembered = st.query_params.get(key), st.session_state.get(_remembered(key))
    if asked is not None and asked != remembered:
        if asked in options:
            st.session_state[key] = asked
        else:
            is_not_here(label, [asked])
    elif key not in st.session_state and remembered in options:
        st.session_state[key] = remembered
    if st.session_state.get(key) not in options:
        st.session_state.pop(key, None)
    chosen = str(st.selectbox(label, options, format_func=words, key=key, help=help_ or None))
    return _Selected(key, chosen, asked is not None or remembered is not None or chosen != options[0])


def _keep_in_address(*selected: _Selected) -> None:
    if not any(each.is_given for each in selected):
        return
    for each in selected:
        st.session_state[_remembered(each.key)] = each.value
        if st.query_params.get(each.key) != each.value:
            st.query_params[each.key] = each.value


def _remembered(key: str) -> str:
    return f"chosen {key}"
