"""The answer in sentences: for each backbone whether registers help there, by how much, and how sure that is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pandas as pd

from leaderboard.text import plain

NAMED: Final = 4
IN_ENCODER: Final = " in encoder"

# Of each verdict: what one arm does, and what several do.
_VERBS: Final = {
    "better": ("helps", "help"),
    "worse": ("harms", "harm"),
    "larger": ("makes it larger", "make it larger"),
    "smaller": ("makes it smaller", "make it smaller"),
    "nothing shown": ("shows nothing", "show nothing"),
}


@dataclass(frozen=True)
class Finding:
    """What is known of one backbone, in a sentence of Markdown."""

    backbone: str
    sentence: str


def findings(arms: pd.DataFrame) -> list[Finding]:
    """One for each backbone of `differences.judged_arms`.

    No arm is singled out: those that show something are named, and the others counted.
    """
    treated = arms[arms["registers"] != "none"]
    has_tokens = treated["count"].notna() | treated["stages"].str.contains(IN_ENCODER, regex=False)
    return [
        Finding(str(backbone), _sentence(treated[has_tokens & mine], treated[~has_tokens & mine]))
        for backbone in dict.fromkeys(arms["backbone"])
        for mine in [treated["backbone"] == backbone]
    ]


def _sentence(tokens: pd.DataFrame, others: pd.DataFrame) -> str:
    if tokens.empty and others.empty:
        return "nothing to say yet: it has no run with registers."
    said = [_said(arms, what) for arms, what in ((tokens, "registers"), (others, "change without tokens")) if len(arms)]
    return " ".join(said)


def _said(arms: pd.DataFrame, what: str) -> str:
    """What these arms show, arm by arm; those that show nothing are named only where nothing else is."""
    clauses = list(_clauses(arms, names_nothing=set(arms["verdict"]) <= {"nothing shown", "not known"}))
    subject = f"the one kind of {what}" if len(arms) == 1 else f"of {len(arms)} kinds of {what}"
    if len(arms) > 1 and len(clauses) == 1:
        subject = f"all {len(arms)} kinds of {what}"
        clauses = [clauses[0].partition(" ")[2]]
    sentence = f"{subject} {'; '.join(clauses)}."
    return sentence[:1].upper() + sentence[1:]


def _clauses(arms: pd.DataFrame, *, names_nothing: bool) -> Iterator[str]:
    for verdict, (one, several) in _VERBS.items():
        group = arms[arms["verdict"] == verdict]
        if group.empty:
            continue
        verb = f"**{one}**" if len(group) == 1 else f"**{several}**"
        named = f": {_named(group)}" if verdict != "nothing shown" or names_nothing else ""
        yield f"{_number(group, arms)}{verb}{named}"
    unknown = arms[arms["verdict"] == "not known"]
    if len(unknown):
        has = "has" if len(unknown) == 1 else "have"
        yield f"{_number(unknown, arms)}**{has} no interval**: no matched run, or one seed of a number without a prior"


def _number(group: pd.DataFrame, arms: pd.DataFrame) -> str:
    return "" if len(arms) == 1 else f"{len(group)} "


def _named(arms: pd.DataFrame) -> str:
    """The arms with their differences, those of most seeds first."""
    ordered = arms.sort_values(["pairs", "registers"], ascending=[False, True])
    named = [_difference(arm) for _, arm in ordered.head(NAMED).iterrows()]
    more = [f"and {len(ordered) - NAMED} more"] if len(ordered) > NAMED else []
    return ", ".join([*named, *more])


def _difference(arm: pd.Series) -> str:
    seeds = "1 seed" if arm["pairs"] == 1 else f"{arm['pairs']} seeds"
    return f"{plain(arm['label'], 60)} {signed(arm['difference'])} ± {arm['half_width']:.2g} ({seeds})"


def signed(value: float) -> str:
    """A difference with its sign, the minus as long as the plus."""
    return f"{value:+.3g}".replace("-", "−")
