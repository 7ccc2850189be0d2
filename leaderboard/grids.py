"""The picture of a run's samples on a page, or why there is none."""

import pandas as pd
import streamlit as st

from leaderboard import links, pictures
from leaderboard.text import plain
from leaderboard.view import View


def show_grid(view: View, run: pd.Series) -> None:
    """Draw the sample grid of one row of `compare_queries.named_runs`, under the name of its arm."""
    st.markdown(f"**{plain(str(run['arm']))}**")
    if pd.isna(run["samples"]):
        why = "This run diverged: no samples." if run["status"] == "diverged" else "This record came without a picture."
        st.info(why)
        return
    picture = pictures.opened(view.results / str(run["samples"]))
    if picture is None:
        st.warning(f"The picture {plain(str(run['samples']))} is missing, or is none.")
    else:
        st.image(picture, width="stretch")
    st.markdown(f"[run {run['run_id']}]({links.RUN}{run['run_id']})")
