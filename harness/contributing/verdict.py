"""What `validate` answers: the faults that refuse a submission, and the remarks that only inform (no torch)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.contributing.rules import rule_named

LONGEST_SHOWN: Final = 1_000


@dataclass(frozen=True)
class Breach:
    """A rule that a file breaks: what is wrong and why, and what to do about it."""

    rule: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Fault:
    """One broken rule.  `path` is the file to mend, below the results; `record` the one that is left out for it.

    What is printed, all but `record`, is in ASCII without control characters, whatever a file said or is called.
    """

    path: str
    rule: str
    problem: str
    remedy: str
    record: str = ""

    def __post_init__(self) -> None:
        assert rule_named(self.rule), "a rule that there is"
        object.__setattr__(self, "record", self.record or self.path)
        for name in ("path", "problem", "remedy"):
            object.__setattr__(self, name, shown(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}: {self.remedy} [{self.rule}]"


@dataclass(frozen=True)
class Remark:
    """What a reviewer should know of a file, and no rule forbids: above all what could not be checked here."""

    path: str
    says: str

    def __post_init__(self) -> None:
        for name in ("path", "says"):
            object.__setattr__(self, name, shown(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.path}: {self.says}"


@dataclass(frozen=True)
class Verdict:
    """All faults and remarks of the files that were `checked`, by their paths below the results."""

    faults: Sequence[Fault]
    remarks: Sequence[Remark]
    checked: Sequence[str]

    @property
    def refused(self) -> dict[str, str]:
        """The files that the database leaves out, and the first reason of each."""
        reasons: dict[str, str] = {}
        for fault in self.faults:
            reasons.setdefault(fault.record, f"{fault.problem} [{fault.rule}]")
        return reasons


def shown(text: str) -> str:
    """A text as it may stand on a terminal: in ASCII, without control characters, and of a bounded length."""
    plain = "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text[:LONGEST_SHOWN])
    return f"{plain}..." if len(text) > LONGEST_SHOWN else plain
