"""Show a sweep's progress for as long as something moves (no torch)."""

import shutil
import sys
import time

from harness.sweep_launch import look
from harness.sweep_status import Known, statuses
from harness.sweep_store import Sweep
from harness.sweep_table import by_interest, in_all, table

SECONDS_BETWEEN = 2.0
BACK_TO_TOP = "\x1b[H\x1b[J"
LINES_BESIDE = 4


def watch(sweep: Sweep) -> None:
    """In a terminal a table that is drawn anew in place; elsewhere one line for each change."""
    said = ""
    while True:
        known = statuses(sweep.runs, look)
        line = f"sweep {sweep.name}, {in_all(known)}"
        if sys.stdout.isatty():
            print(f"{BACK_TO_TOP}{fitting(known)}\n{line}", flush=True)
        elif line != said:
            print(line, flush=True)
        if not any(each.is_in_hand for each in known):
            return
        said = line
        time.sleep(SECONDS_BETWEEN)


def fitting(known: list[Known]) -> str:
    """As many runs as the terminal has room for, what moves first, each in one line."""
    width, height = shutil.get_terminal_size()
    room = max(height - LINES_BESIDE, 1)
    shown = known if len(known) <= room else by_interest(known)[:room]
    lines = [line[:width] for line in table(shown, known).splitlines()]
    return "\n".join([*lines, f"... {len(known) - len(shown)} more"] if len(shown) < len(known) else lines)
