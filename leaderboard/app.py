"""The leaderboard in a browser: `python -m harness board`."""

import functools
import importlib
import itertools
import sys
from pathlib import Path
from typing import Final

import streamlit as st
from PIL import Image, ImageDraw

from harness.errors import UserError
from leaderboard.palette import BLUE, VERMILION
from leaderboard.text import plain
from leaderboard.view import View, opened

# Address -> title, and the module of leaderboard.screens that draws it.
PAGES: Final = {
    "leaderboard": ("Leaderboard", "ranking"),
    "compare": ("Compare", "compare"),
    "outliers": ("Outliers", "outliers"),
    "geneval": ("Text to image", "geneval"),
    "claims": ("Claims", "claims"),
    "run": ("Run", "run"),
    "submit": ("Submit", "submit"),
}


def main(results: Path) -> None:
    """Open the database as it is now, and draw the page that the address names."""
    st.set_page_config(page_title="DSR-Bench", page_icon=_icon(), layout="wide")
    try:
        view = opened(results)
    except UserError as error:
        st.title("DSR-Bench")
        st.error(f"{plain(error.problem, 400)}. {plain(error.remedy[:1].upper() + error.remedy[1:])}.")
        return
    if view is None:
        st.title("DSR-Bench")
        st.info("There is no database yet. Run `python -m harness index`, then load this page again.")
        return
    st.navigation(
        [
            st.Page(functools.partial(_draw, view, module), title=title, url_path=address, default=module == "ranking")
            for address, (title, module) in PAGES.items()
        ],
        position="top",
    ).run()


def _icon() -> Image.Image:
    """Eight patches and a register, drawn here, so that no icon is fetched from elsewhere."""
    icon = Image.new("RGB", (48, 48), "white")
    draw = ImageDraw.Draw(icon)
    for row, column in itertools.product(range(3), range(3)):
        colour = VERMILION if (row, column) == (2, 2) else BLUE
        draw.rectangle((16 * column + 1, 16 * row + 1, 16 * column + 14, 16 * row + 14), fill=colour)
    return icon


def _draw(view: View, module: str) -> None:
    """A page is imported when it is first looked at: the first one need not wait for what the others import."""
    importlib.import_module(f"leaderboard.screens.{module}").show(view)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("results"))
