"""The page "Outliers"."""

from leaderboard.view import View


def show(view: View) -> None:
    """Draw it."""
    del view
