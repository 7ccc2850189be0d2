"""The leaderboard in a browser: `python -m harness board`."""

import functools
import sys
from pathlib import Path

import streamlit as st

from leaderboard.pages import claims, compare, outliers, ranking, run, submit
from leaderboard.view import opened


def main(results: Path) -> None:
    """Open the database as it is now, and draw the page that the address names."""
    st.set_page_config(page_title="DSR-Bench", page_icon="🔲", layout="wide")
    view = opened(results)
    if view is None:
        st.title("DSR-Bench")
        st.info("There is no database yet. Run `python -m harness index`, then load this page again.")
        return
    pages = {
        "leaderboard": ("Leaderboard", ranking.show),
        "compare": ("Compare", compare.show),
        "outliers": ("Outliers", outliers.show),
        "claims": ("Claims", claims.show),
        "run": ("Run", run.show),
        "submit": ("Submit", submit.show),
    }
    st.navigation(
        [
            st.Page(functools.partial(show, view), title=title, url_path=address, default=address == "leaderboard")
            for address, (title, show) in pages.items()
        ],
        position="top",
    ).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("results"))
