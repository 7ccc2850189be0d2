"""Seconds of a phase, over all the attempts that it took."""

import contextlib
import time
from pathlib import Path
from types import TracebackType

from harness.files import write_text


class Stopwatch:
    """`with Stopwatch(file) as watch: ...` and then `watch.seconds`: earlier attempts, kept in `file`, included.

    An attempt that is killed outright keeps no time: what is reported is never more than was used.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.seconds = 0.0
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.seconds = float(file.read_text())

    def __enter__(self) -> "Stopwatch":
        self._started = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.seconds += time.monotonic() - self._started
        if kind is not None:
            write_text(self.file, str(self.seconds))
