"""The page "Compare"."""

from leaderboard.view import View


def show(view: View) -> None:
    """Draw it."""
    del view
