"""Seconds: of one call, or of a phase over all the attempts that it took."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.files import write_text


def seconds_of(action: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


class Stopwatch:
    """`with Stopwatch(file) as watch: ...` and then `watch.seconds`: earlier attempts, kept in `file`, included."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before = 0.0
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._before = float(file.read_text())

    @property
    def seconds(self) -> float:
        """All that was used so far."""
        return self._before + time.monotonic() - self._started

    def keep(self) -> None:
        """Write the seconds down, so that a kill from here on does not lose them."""
        write_text(self._file, str(self.seconds))

    def __enter__(self) -> "Stopwatch":
        self._started = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.keep()
