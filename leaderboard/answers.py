"""Ask the database once: an answer is kept as long as the database is the same."""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import duckdb
import streamlit as st

from leaderboard.view import View

KEPT = 128

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


def cached(
    question: Callable[Concatenate[duckdb.DuckDBPyConnection, Asked], Answer],
    view: View,
    *arguments: Asked.args,
    **named: Asked.kwargs,
) -> Answer:
    """`question(view.database, *arguments)`, asked once for all visitors of one state of the database.

    `question` is a function of a module; its arguments are plain values or frozen dataclasses.  Whoever asks gets a
    copy, and may change it.
    """
    answer: Answer = _answer(
        view.digest, f"{question.__module__}.{question.__qualname__}", arguments, named, question, view
    )
    return answer


@st.cache_data(max_entries=KEPT, show_spinner=False)
def _answer(
    digest: str,  # noqa: ARG001 - a part of the cache's key, as the question's name
    name: str,  # noqa: ARG001
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    _question: Callable[..., Any],
    _view: View,
) -> Any:
    return _question(_view.database, *arguments, **named)
