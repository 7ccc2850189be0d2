"""Work in a folder alone: a second process waits until the first has ended, however it ends (no torch)."""

import errno
import fcntl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from harness.errors import UserError, disk_error
from harness.files import sweep_parts
from harness.lease import RENEWED_EVERY, Lease, Taken, holder, take
from harness.progress import say

POLLED_EVERY = 0.2
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """The folder, made if it is not there, for this process only, free of what a killed one left half written.

    Raises UserError where it cannot be written, or its disk knows no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise disk_error(folder, error) from error
    with lock:
        _wait_for(lock, folder)
        sweep_parts(folder)
        yield folder


@contextmanager
def alone_among_machines(folder: Path) -> Iterator[None]:
    """The same by a lease, where machines share a disk of whatever kind; it expires when the process is killed.

    Raises UserError where the folder cannot be written.
    """
    lease = _taken(folder)
    try:
        with renewed(lease):
            yield
    finally:
        lease.give_back()


@contextmanager
def renewed(lease: Lease) -> Iterator[None]:
    """Within this, a thread gives the signs of life that a lease needs."""
    over = threading.Event()

    def renew() -> None:
        is_over = False
        while not is_over:
            with suppress(OSError):  # a disk that does not answer now may answer the next time
                lease.renew()
            is_over = over.wait(RENEWED_EVERY)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wait_for(lock: IO[str], folder: Path) -> None:
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is at work in {folder}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise disk_error(folder, error) from error
        raise UserError(
            f"{folder}: its disk knows no locks ({error.strerror})",
            "use a folder on another disk (--runs), or have yours mounted with flock",
        ) from error


def _taken(folder: Path) -> Lease:
    is_said = False
    while True:
        try:
            return take(folder)
        except Taken:
            found = holder(folder)
            if found and not is_said:
                say(f"{found.words()} is at work in {folder}: waiting for it")
                is_said = True
            time.sleep(POLLED_EVERY)
