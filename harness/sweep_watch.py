"""Show a sweep's progress for as long as something moves (no torch)."""

import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.launcher_names import is_scheduled
from harness.progress import say
from harness.sweep_launch import look
from harness.sweep_status import Known, Look, SeenJob, statuses
from harness.sweep_store import Sweep
from harness.sweep_table import by_interest, in_all, table

SECONDS_BETWEEN, SECONDS_BETWEEN_QUESTIONS = 2.0, 30.0
BACK_TO_TOP = "\x1b[H\x1b[J"
LINES_BESIDE = 4


def watch(sweep: Sweep) -> None:
    """In a terminal a table that is drawn anew in place; elsewhere one line for each change."""
    said, sparing = "", SparingLook(look)
    while True:
        known = statuses(sweep.runs, sparing)
        line = f"sweep {sweep.name}, {in_all(known)}"
        if sys.stdout.isatty():
            print(f"{BACK_TO_TOP}{fitting(known)}\n{line}", flush=True)
        elif line != said:
            print(line, flush=True)
        if not any(each.is_in_hand for each in known):
            return
        said = line
        time.sleep(SECONDS_BETWEEN)


class SparingLook:
    """Asks schedulers only now and then, and keeps their last word; one that does not answer is asked again later.

    Of a job that they have not been asked about it is taken that it goes on.
    """

    def __init__(self, look: Look, seconds_between: float = SECONDS_BETWEEN_QUESTIONS) -> None:
        self._look, self._seconds_between = look, seconds_between
        self._last: dict[str, SeenJob] = {}
        self._asked = -math.inf
        self._is_said = False

    def __call__(self, names: Sequence[str]) -> Mapping[str, SeenJob]:
        scheduled = [name for name in names if is_scheduled(name)]
        here = [name for name in names if not is_scheduled(name)]
        if scheduled and time.monotonic() - self._asked >= self._seconds_between:
            self._ask(scheduled)
        known = {name: self._last.get(name, NOT_ASKED) for name in scheduled}
        return {**known, **(self._look(here) if here else {})}

    def _ask(self, names: Sequence[str]) -> None:
        self._asked = time.monotonic()
        try:
            self._last.update(self._look(names))
        except UserError as error:
            if not self._is_said:
                say(f"{error.problem}; watching goes on")
            self._is_said = True
        else:
            self._is_said = False


@dataclass(frozen=True)
class _GoesOn:
    alive: bool = True
    word: str = ""


NOT_ASKED = _GoesOn()


def fitting(known: list[Known]) -> str:
    """As many runs as the terminal has room for, what moves first, each in one line."""
    width, height = shutil.get_terminal_size()
    room = max(height - LINES_BESIDE, 1)
    shown = known if len(known) <= room else by_interest(known)[:room]
    lines = [line[:width] for line in table(shown, known).splitlines()]
    return "\n".join([*lines, f"... {len(known) - len(shown)} more"] if len(shown) < len(known) else lines)
