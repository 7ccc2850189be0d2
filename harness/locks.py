"""Work in a folder alone: a second process waits until the first has ended, however it ends (no torch)."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import disk_error
from harness.files import sweep_parts
from harness.progress import say


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """The folder, made if it is not there, for this process only, free of what a killed one left half written.

    Raises UserError where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise disk_error(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is at work in {folder}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        sweep_parts(folder)
        yield folder
