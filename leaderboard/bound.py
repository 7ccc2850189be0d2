"""Choices that stand in the address, and leave it where what was chosen is offered no more, as of another task.

Streamlit alone would take it from the widget, and leave it in the address: another reader would see something else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st


def select(label: str, options: Sequence[str], key: str, words: Callable[[str], str] = str, within: Any = st) -> str:
    """Draw a selector of one of the options, at first the first, `within` a column or the page."""
    if st.session_state.get(key, options[0]) not in options:
        st.session_state[key] = options[0]
    return str(within.selectbox(label, options, format_func=words, key=key, bind="query-params"))


def keep_offered(key: str, offered: Sequence[object], otherwise: Sequence[object] = ()) -> None:
    """Before a selector of several is drawn: take from what is chosen what is not offered; all gone, `otherwise`."""
    chosen = st.session_state.get(key, [])
    kept = [each for each in chosen if each in offered] or list(otherwise)
    if kept != chosen:
        st.session_state[key] = kept
