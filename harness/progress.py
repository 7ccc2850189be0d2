"""Show how far long work has come: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


def say(text: str) -> None:
    """One line for the person who waits; never on standard output, which may be read by a machine."""
    if not _SILENT:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def silent() -> Iterator[None]:
    """Say nothing within this: of several processes that share a run one speaks."""
    _SILENT.append(True)
    try:
        yield
    finally:
        _SILENT.pop()


_SILENT: list[bool] = []


@contextmanager
def watched_by(observer: Callable[["Progress"], None]) -> Iterator[None]:
    """Call `observer` whenever any Progress begins or advances; an error that it raises stops the work."""
    _OBSERVERS.append(observer)
    try:
        yield
    finally:
        _OBSERVERS.remove(observer)


_OBSERVERS: list[Callable[["Progress"], None]] = []


class Progress:
    """`with Progress("training", total, done) as progress: progress.advance(1, "loss 0.31")`."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        has_bar = sys.stderr.isatty() and not _SILENT
        self._bar = tqdm(total=total, initial=done, desc=label, leave=False) if has_bar else None
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
        self._tell()

    def _tell(self) -> None:
        for observer in _OBSERVERS:
            observer(self)

    def __enter__(self) -> "Progress":
        self._tell()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
