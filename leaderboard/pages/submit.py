"""The page "Submit"."""

from leaderboard.view import View


def show(view: View) -> None:
    """Draw it."""
    del view
