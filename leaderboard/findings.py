"""The answer in sentences: for each backbone whether registers help there, by how much, and how sure that is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import itemgetter
from typing import Any, Final

import pandas as pd

from leaderboard.text import plain

Row = dict[str, Any]

NAMED: Final = 4
SHOWN: Final = ("helps", "harms", "larger", "smaller")

# Of each verdict: what one arm does, and what several do.
_VERBS: Final = {
    "helps": ("**helps**", "**help**"),
    "harms": ("**harms**", "**harm**"),
    "larger": ("**makes it larger**", "**make it larger**"),
    "smaller": ("**makes it smaller**", "**make it smaller**"),
    "one seed: a hint": ("gives a hint from one seed", "give a hint from one seed each"),
    "changed nothing": ("changed nothing", "changed nothing"),
    "shows nothing": ("shows nothing", "show nothing"),
    "not known": ("has no interval", "have no interval"),
}
_QUIET: Final = ("changed nothing", "shows nothing", "not known")
_LEAST_WRITTEN: Final = 1e-4
_UNBROKEN: Final = "\u00a0"
_READ: Final = [
    *("backbone", "registers", "label", "has_tokens", "verdict", "method"),
    *("pairs", "difference", "share", "half_width", "low", "high", "base"),
]


@dataclass(frozen=True)
class Finding:
    """What is known of one backbone, in a sentence of Markdown."""

    backbone: str
    sentence: str


def summary(arms: pd.DataFrame) -> str:
    """Over all backbones of `differences.treatments`: tokens first, then controls and changes without tokens."""
    tokens, others = _tokens_and_others(_rows(arms))
    said = [("Tokens", tokens), ("Controls and changes without tokens", others)]
    return "  \n".join(f"**{what}**: {_over_all(group)}." for what, group in said if group)


def findings(arms: pd.DataFrame) -> list[Finding]:
    """One for each backbone of `differences.treatments`.

    No arm is singled out: those that show something are named, and the others counted.
    """
    return [Finding(backbone, _sentence(mine)) for backbone, mine in _by_backbone(arms).items()]


def costs(arms: pd.DataFrame) -> list[Finding]:
    """What each treatment costs beside none, of a number that is counted; one for each backbone."""
    return [Finding(backbone, _cost(mine)) for backbone, mine in _by_backbone(arms).items()]


def signed(value: float) -> str:
    """A difference with its sign, the minus as long as the plus."""
    return ("−" if value < 0 else "+") + rounded(abs(value), 3)


def rounded(value: float, digits: int = 2) -> str:
    """A number with so many significant digits, and no exponent unless it is tiny."""
    written = f"{value:.{digits}g}"
    return written if 0 < abs(value) < _LEAST_WRITTEN else f"{Decimal(written):f}"


def _rows(arms: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in arms[_READ].to_dict("records")]


def _by_backbone(arms: pd.DataFrame) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in _rows(arms):
        found.setdefault(row["backbone"], []).append(row)
    return found


def _tokens_and_others(arms: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    treated = [arm for arm in arms if arm["registers"] != "none"]
    return [arm for arm in treated if arm["has_tokens"]], [arm for arm in treated if not arm["has_tokens"]]


def _with(arms: Sequence[Row], verdict: str) -> list[Row]:
    return [arm for arm in arms if arm["verdict"] == verdict]


def _over_all(arms: Sequence[Row]) -> str:
    hints = len(_with(arms, "one seed: a hint"))
    clauses = list(_over_several([arm for arm in arms if arm["method"] == "seeds"]))
    clauses = clauses or [f"none of {len(arms)} has two or more seeds beside matched ones"]
    return "; ".join([*clauses, *([f"{hints} single-seed {'hint' if hints == 1 else 'hints'}"] if hints else [])])


def _over_several(arms: Sequence[Row]) -> Iterator[str]:
    """Of arms with several seeds each: how many show what, and the largest effect that fits into an interval."""
    if not arms:
        return
    counts = {verdict: len(_with(arms, verdict)) for verdict in SHOWN}
    which = [f"{count} {_VERBS[verdict][int(count > 1)]}" for verdict, count in counts.items() if count]
    number = sum(counts.values())
    show = "shows" if number == 1 else "show"
    of_which = f" ({', '.join(which)})" if which else ""
    yield f"{number} of {len(arms)} with two or more seeds {show} a difference{of_which}"
    most = max((max(abs(arm["low"]), abs(arm["high"])) / abs(arm["base"]) for arm in arms if arm["base"]), default=0.0)
    if most > 0:
        yield f"effects up to {rounded(100 * most)}{_UNBROKEN}% of none cannot be excluded"


def _sentence(arms: Sequence[Row]) -> str:
    tokens, others = _tokens_and_others(arms)
    groups = ((tokens, "tokens"), (others, "control or change without tokens"))
    said = " ".join(_said(group, what) for group, what in groups if group)
    return said or "nothing to say yet: it has no run with registers."


def _said(arms: Sequence[Row], what: str) -> str:
    """What these arms show, arm by arm; those that show nothing are named only where nothing else is."""
    clauses = list(_clauses(arms, names_all=all(arm["verdict"] in _QUIET for arm in arms)))
    subject = f"the one kind of {what}" if len(arms) == 1 else f"of {len(arms)} kinds of {what}"
    if len(arms) > 1 and len(clauses) == 1:
        subject = f"both kinds of {what}" if len(arms) == 2 else f"all {len(arms)} kinds of {what}"
        clauses = [clauses[0].partition(" ")[2]]
    sentence = f"{subject} {'; '.join(clauses)}."
    return sentence[:1].upper() + sentence[1:]


def _clauses(arms: Sequence[Row], *, names_all: bool) -> Iterator[str]:
    for verdict, (one, several) in _VERBS.items():
        group = _with(arms, verdict)
        if not group:
            continue
        number = "" if len(arms) == 1 else f"{len(group)} "
        is_named = verdict not in _QUIET or (names_all and verdict != "not known")
        yield f"{number}{one if len(group) == 1 else several}{f': {_named(group)}' if is_named else ''}"


def _named(arms: Sequence[Row]) -> str:
    """The arms with their differences, those of most seeds first."""
    ordered = sorted(arms, key=lambda arm: (-arm["pairs"], arm["registers"]))
    more = [f"and {len(ordered) - NAMED} more"] if len(ordered) > NAMED else []
    return ", ".join([*map(_difference, ordered[:NAMED]), *more])


def _difference(arm: Row) -> str:
    seeds = "1 seed" if arm["pairs"] == 1 else f"{arm['pairs']} seeds"
    if arm["verdict"] == "changed nothing":
        return f"{plain(arm['label'], 60)} ({seeds})"
    share: str = f"{_percent(arm['share'])}, " if pd.notna(arm["share"]) else ""
    return f"{plain(arm['label'], 60)} {signed(arm['difference'])} ± {rounded(arm['half_width'])} ({share}{seeds})"


def _cost(arms: Sequence[Row]) -> str:
    known = [arm for arm in arms if arm["registers"] != "none" and pd.notna(arm["share"])]
    if not known:
        return "nothing to say yet: it has no run with registers beside its matched one."
    known.sort(key=itemgetter("share"))
    said = [f"{plain(arm['label'], 60)} {_percent(arm['share'])}" for arm in known if arm["share"]]
    free = [plain(arm["label"], 60) for arm in known if not arm["share"]]
    clauses = [f"costs beside none: {', '.join(said)}"] if said else []
    clauses += [f"exactly as much as none: {', '.join(free)}"] if free else []
    sentence = "; ".join(clauses)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _percent(share: float) -> str:
    return f"{signed(100 * share)}{_UNBROKEN}%"
