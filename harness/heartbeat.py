"""Say while a run is worked on that it is, how far it has come, and how it ended (no torch)."""

import contextlib
import threading
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from harness.errors import UserError
from harness.lease import RENEWED_EVERY, Lease, Taken
from harness.processes import this_process
from harness.progress import Progress, watched_by
from harness.run_state import Attempt, RunState, Status, read_state, write_state

WRITTEN_EVERY = 5.0
MOST_ATTEMPTS = 50


class Heartbeat:
    """`with Heartbeat(lease, attempt) as heart: ...; heart.ended("finished")`.

    A thread renews the lease, and writes the state with whatever the progress bar last said.  Where another process
    has taken over, the next advance of a progress bar raises Taken, and nothing more is written.
    """

    def __init__(self, lease: Lease, attempt: Attempt) -> None:
        self._lease, self._folder = lease, lease.path.parent
        before = read_state(self._folder)
        attempts = (*(before.attempts if before else ()), attempt)[-MOST_ATTEMPTS:]
        self._state = RunState(status="running", worker=this_process(), updated=datetime.now(UTC), attempts=attempts)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._is_lost = False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._watching = watched_by(self._note)

    def ended(self, status: Status, reason: str = "") -> None:
        """How it ended; without this it has failed, or was interrupted, as the error says that ends it."""
        with self._lock:
            self._state = self._state.model_copy(update={"status": status, "reason": reason})

    def failed(self, reason: str) -> None:
        """Why it fails, kept at once: for a process that is ended right after this."""
        self.ended("failed", reason)
        self._write()

    def require(self) -> None:
        """Raise Taken where another process has taken over, as it may after `EXPIRES_AFTER` without a renewal."""
        if self._is_lost or not self._lease.is_held():
            self._is_lost = True
            raise Taken(
                f"another process took over run {self._folder.name}, as this one gave no sign of life for too long",
                "nothing is lost: the same command shows what the other makes of it",
            )

    def _note(self, progress: Progress) -> None:
        if self._is_lost:
            self.require()
        update = {"phase": progress.label, "done": progress.done, "total": progress.total}
        with self._lock:
            self._state = self._state.model_copy(update=update)

    def _beat(self) -> None:
        renewed = written = time.monotonic()
        while not self._over.wait(min(RENEWED_EVERY, WRITTEN_EVERY) / 5):
            now = time.monotonic()
            if now - renewed >= RENEWED_EVERY:
                renewed = now
                with contextlib.suppress(OSError):  # a disk that does not answer now may answer the next time
                    self._is_lost = self._is_lost or not self._lease.renew()
            if now - written >= WRITTEN_EVERY:
                written = now
                self._write()

    def _write(self) -> None:
        """Keep the state; what is wrong with the disk the run itself will find and say."""
        if self._is_lost:
            return
        with self._lock:
            state = self._state.model_copy(update={"updated": datetime.now(UTC)})
        with contextlib.suppress(UserError, OSError):
            write_state(self._folder, state)

    def __enter__(self) -> Self:
        self._write()
        self._watching.__enter__()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._watching.__exit__(None, None, None)
        self._over.set()
        self._thread.join()
        self._is_lost = self._is_lost or not self._lease.is_held()
        if self._is_lost and isinstance(error, Exception):
            # What went wrong may be no more than the new owner's tidying.
            self.require()
        if error is not None:
            self.ended(*_how(error))
        elif self._state.status == "running":
            self.ended("interrupted")
        self._write()


def _how(error: BaseException) -> tuple[Status, str]:
    """What an error that ends a run makes of it."""
    if isinstance(error, UserError):
        return "failed", error.problem
    if isinstance(error, Exception):
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    return "interrupted", ""
