"""What `validate` answers: the faults that refuse a submission, and the remarks that only inform (no torch)."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.contributing.rules import rule_named


@dataclass(frozen=True)
class Breach:
    """A rule that a file breaks: what is wrong and why, and what to do about it."""

    rule: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Fault:
    """One broken rule.  `path` is the file to mend, below the results; `record` the one that is left out for it."""

    path: str
    rule: str
    problem: str
    remedy: str
    record: str = ""

    def __post_init__(self) -> None:
        assert rule_named(self.rule), "a rule that there is"

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}: {self.remedy} [{self.rule}]"


@dataclass(frozen=True)
class Remark:
    """What a reviewer should know of a file, and no rule forbids: above all what could not be checked here."""

    path: str
    says: str

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
            reasons.setdefault(fault.record or fault.path, f"{fault.problem} [{fault.rule}]")
        return reasons
