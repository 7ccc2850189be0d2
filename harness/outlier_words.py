"""How both probes, of encoders and of denoisers, put their numbers into words."""

from collections.abc import Callable, Sequence

ABSENT = "-"


def times(value: float) -> str:
    """A multiple of the median."""
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def share(value: float) -> str:
    """A share, in percent."""
    return f"{100 * value:.3g} %"


def or_absent(value: float | None, say: Callable[[float], str]) -> str:
    """A number, or the sign that there is none."""
    return ABSENT if value is None else say(value)


def without_empty(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The columns that have an entry below their heading."""
    kept = [index for index in range(len(rows[0])) if any(row[index] != ABSENT for row in rows[1:])]
    return [[row[index] for index in kept] for row in rows]
