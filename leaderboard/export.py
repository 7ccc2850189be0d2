"""The board as files that any web server can hand out: plain HTML and Parquet."""

from pathlib import Path


def export(results: Path, directory: Path) -> None:
    """Write the board of these results into a directory."""
    raise NotImplementedError((results, directory))
