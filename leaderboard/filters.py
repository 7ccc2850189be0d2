"""Which runs are shown: a search and filters that stand in the address."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd
import streamlit as st

from leaderboard.bound import keep_offered
from leaderboard.choice import is_not_here
from leaderboard.text import short

# Key in the address -> what it is called, and the column that it filters.
FILTERS: Final = {
    "backbone": ("Backbone", "backbone"),
    "registers": ("Registers", "registers"),
    "seed": ("Seed", "seed"),
    "status": ("Status", "status"),
    "badge": ("Badge", "badge"),
}
SEARCHED: Final = ("run_id", "backbone", "registers", "stages", "third_party", "device", "commit", "path", "notes")


@dataclass(frozen=True)
class Filtered:
    """The runs and the arms that pass; an arm passes with all its seeds, and keeps them all in its mean."""

    runs: pd.DataFrame
    arms: pd.DataFrame


def filtered(runs: pd.DataFrame, arms: pd.DataFrame) -> Filtered:
    """Draw the filters into the sidebar, and take what passes them.

    An empty filter lets everything pass; one for which the address has nothing but unknown values lets nothing pass.
    """
    offered = runs
    with st.sidebar:
        words = st.text_input(
            "Search",
            key="search",
            bind="query-params",
            max_chars=200,
            placeholder="run id, stage, commit, note …",
            help="Runs that have every one of these words somewhere.",
        )
        for key, (label, column) in FILTERS.items():
            values = _values(offered[column])
            unknown = _unknown(key, values)
            keep_offered(key, values)
            wanted = st.multiselect(label, values, key=key, bind="query-params", format_func=_word)
            is_not_here(label, unknown)
            if wanted or unknown:
                runs = runs[runs[column].isin(wanted)]
    runs = _searched(runs, words or "")
    return Filtered(runs, arms[arms["arm_id"].isin(runs["arm_id"].unique())])


def _values(column: pd.Series) -> list[object]:
    return sorted(column.dropna().unique().tolist())


def _unknown(key: str, values: Sequence[object]) -> list[str]:
    """What the address asks for and no run has; to be read before the widget is first drawn, which drops it there.

    From then on the widget is what counts: `st.query_params` still holds what was picked for another task.
    """
    if key in st.session_state:
        return []
    known = {_word(value) for value in values}
    return [asked for asked in st.query_params.get_all(key) if asked not in known]


def _word(value: object) -> str:
    return short(str(value))


def _searched(runs: pd.DataFrame, words: str) -> pd.DataFrame:
    if not words.strip():
        return runs
    columns = runs[list(SEARCHED)].fillna("")
    text = columns[SEARCHED[0]].str.cat(columns[list(SEARCHED[1:])], sep="\n").str.lower()
    found = pd.Series(data=True, index=runs.index)
    for word in words.lower().split():
        found &= text.str.contains(word, regex=False)
    return runs[found]
