"""Text for people: aligned columns, counted nouns (no torch)."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]]) -> str:
    """One line for each row; all rows have as many cells as the first."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "2 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
