"""Show how far long work has come: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


def say(text: str) -> None:
    """One line for the person who waits; never on standard output, which may be read by a machine."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """`with Progress("training", total, done) as progress: progress.advance(1, "loss 0.31")`."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self._bar = tqdm(total=total, initial=done, desc=label, leave=False) if sys.stderr.isatty() else None
        self._started = self._spoken = time.monotonic()
        self._first = done

    def advance(self, count: int, detail: str = "") -> None:
        """`count` more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(detail, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._spoken >= SECONDS_BETWEEN_LINES:
            self._spoken = time.monotonic()
            left = (self.total - self.done) * (self._spoken - self._started) / max(self.done - self._first, 1)
            say(f"{self.label}: {self.done}/{self.total} {detail} ({left:.0f} s left)")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
