"""What a scenario counted, and the table of all of them."""

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.text_table import columns
from tests.faults.checker import Fault

COUNTED = ("lost", "twice", "half", "unreadable", "other bytes", "leftover", "state", "behaviour")
MOST_SHOWN = 20


@dataclass
class Figures:
    """Counts of one scenario; `skipped` says why it could not be played."""

    scenario: str
    runs: int = 0
    starts: int = 0
    expected: int = 0
    found: int = 0
    openings: int = 0
    faults: list[Fault] = field(default_factory=list)
    details: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: float = 0.0
    skipped: str = ""

    def count(self, detail: str, what: str) -> None:
        """One more of something that only some scenarios have: a kill by a signal, a kill in a phase."""
        self.details[detail][what] += 1

    def add(self, other: "Figures") -> None:
        """What a part of the scenario counted."""
        self.runs += other.runs
        self.starts += other.starts
        self.openings += other.openings
        self.faults += other.faults
        for detail, counter in other.details.items():
            self.details[detail].update(counter)

    def fault(self, what: str) -> None:
        """A process that did what it should not."""
        self.faults.append(Fault("behaviour", what))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take the time of the scenario."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - began

    def shown(self) -> dict[str, Any]:
        """For machines."""
        of_kind: Counter[str] = Counter(fault.kind for fault in self.faults)
        counts = {"runs": self.runs, "starts": self.starts, "expected": self.expected, "found": self.found}
        return {
            "scenario": self.scenario,
            **counts,
            **{kind: of_kind[kind] for kind in COUNTED},
            "openings": self.openings,
            "seconds": round(self.seconds, 1),
            "skipped": self.skipped,
            "details": {name: dict(counter) for name, counter in self.details.items()},
            "faults": [fault._asdict() for fault in self.faults],
        }


def name_of(number: int) -> str:
    """SIGTERM for 15."""
    return signal.Signals(number).name


def table(all_figures: Sequence[Figures]) -> str:
    """For people: a row for each scenario, then its details, then the first faults."""
    shown = [figures.shown() for figures in all_figures]
    heads = [head for head in shown[0] if head not in ("skipped", "details", "faults")]
    rows = [heads, *([str(each[head]) for head in heads] for each in shown)]
    lines = [columns(rows)]
    for figures in all_figures:
        if figures.skipped:
            lines.append(f"{figures.scenario}: skipped: {figures.skipped}")
        for detail, counter in figures.details.items():
            counts = ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))
            lines.append(f"{figures.scenario}, {detail}: {counts}")
        lines += [f"FAULT in {figures.scenario}: {fault.kind}: {fault.what}" for fault in figures.faults[:MOST_SHOWN]]
    return "\n".join(lines)
