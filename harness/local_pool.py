"""Work through jobs on this machine, so many at once (no torch)."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from harness import workspace
from harness.errors import UserError, disk_error
from harness.files import write_text
from harness.job import Job
from harness.launcher_names import LOCAL
from harness.lease import holder, take
from harness.locks import renewed
from harness.processes import ProcessIdentity
from harness.progress import Progress
from harness.run_state import Status, is_cancelled, note, note_job, read_state
from harness.signals import terminable
from harness.slots import Slot
from harness.sweep_store import SWEEPS

POOLS = "pools"
POLLED_EVERY, PATIENCE = 0.2, 30.0
JOB, LOGS = "job.json", "logs"
LONGEST_REASON = 300


def pool_is_alive(name: str) -> bool:
    """Whether the pool of that name still gives signs of life, wherever it works."""
    found = holder(Path(name.partition(":")[2]))
    return found is not None and found.is_alive


class Pool:
    """Jobs that this process is going to do: `pool = Pool(runs); pool.claim(jobs); pool.work(slots)`.

    It gives signs of life in a folder of its own beside the sweeps, and is called after that.  Raises UserError where
    the folder cannot be written.
    """

    def __init__(self, runs: Path, prefix: str = LOCAL) -> None:
        self._folder = (runs / SWEEPS / POOLS / secrets.token_hex(6)).absolute()
        self._lease = take(self._folder)
        self._jobs: list[Job] = []
        self.name = f"{prefix}{self._folder}"

    def claim(self, jobs: Sequence[Job]) -> None:
        """Say of every job that this pool is going to do it.  Raises UserError where a disk is full."""
        with renewed(self._lease):
            for job in jobs:
                folder = workspace.of(job.config).folder
                note(folder, "queued")
                note_job(folder, self.name)
                self._jobs.append(job)

    def work(self, slots: Sequence[Slot]) -> None:
        """Carry out what was claimed, each job in a slot, and return when the last has ended.

        A job that fails stops no other: why it did stands in its run's state.  What has been cancelled since is passed
        over.  When interrupted, or told to end, the pool asks its jobs to end, waits for them, and raises what ended
        it; asked again, it kills them.
        """
        with self.working() as jobs, Progress("runs", len(jobs)) as progress:
            _Work(self.name, slots, progress).do(jobs)

    @contextmanager
    def working(self) -> Iterator[Sequence[Job]]:
        """The claimed jobs, for whoever does them in another way; the pool is over after that."""
        try:
            with renewed(self._lease):
                yield self._jobs
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def end_work(worker: ProcessIdentity) -> bool:
    """Ask the process that works on a run to end, and wait for it; whether it has ended.

    One on another machine is not reached.  One that does not end within PATIENCE is left alone.
    """
    if not worker.is_here():
        return False
    give_up = time.monotonic() + PATIENCE
    if not worker.is_gone():
        _signal(worker.process, signal.SIGTERM)
    while not worker.is_gone() and time.monotonic() < give_up:
        time.sleep(POLLED_EVERY)
    return worker.is_gone()


@dataclass
class _Child:
    """A process at work on a job, in a session of its own: a terminal's Ctrl-C reaches the pool alone."""

    title: str
    folder: Path
    log: Path
    slot: Slot
    process: subprocess.Popen[bytes]
    is_asked: bool = False

    def ask_to_end(self) -> None:
        """Once: a second time would break off what it does to end in good order."""
        if not self.is_asked and self.process.poll() is None:
            _signal(self.process.pid, signal.SIGTERM)
        self.is_asked = True

    def kill(self) -> None:
        """With all processes that it has started: torchrun's are in sessions of their own."""
        if self.process.poll() is None:
            for process in [*_descendants(self.process.pid), self.process.pid]:
                _signal(process, signal.SIGKILL)

    def end(self) -> str:
        """Keep in the run's state how it ended, where it could not do so itself; returns that in words."""
        code, state = self.process.returncode, read_state(self.folder)
        status = state.status if state else "queued"
        if status in ("queued", "running"):
            if code == 0:
                return "left to another process"
            reason = f"killed by {signal.Signals(-code).name}" if code < 0 else _last_line(self.log)
            _note_if_possible(self.folder, "failed", reason or f"ended with exit code {code}")
            state = read_state(self.folder)
        if state is None:
            return f"ended with exit code {code}"
        return f"{state.status}: {state.reason}" if state.reason else state.status


class _Work:
    """Jobs, the slots that are free, and the children in the others."""

    def __init__(self, name: str, slots: Sequence[Slot], progress: Progress) -> None:
        self._name, self._free, self._progress = name, list(slots), progress
        self._children: list[_Child] = []
        self._waiting: deque[Job] = deque()

    def do(self, jobs: Sequence[Job]) -> None:
        self._waiting.extend(jobs)
        with terminable(), self._ending_with_children():
            while self._waiting or self._children:
                while self._waiting and self._free:
                    self._start(self._waiting.popleft())
                time.sleep(POLLED_EVERY)
                self._look()

    def _start(self, job: Job) -> None:
        folder = workspace.of(job.config).folder
        if is_cancelled(folder):
            self._tell(f"{_title(job)}: cancelled before it began")
            self._progress.advance(1)
            return
        slot = self._free.pop(0)
        log = folder / LOGS / f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.log"
        write_text(folder / JOB, slot.fitted(job).model_dump_json(indent=1) + "\n")
        command = slot.command(folder / JOB, self._name)
        with _opened(log) as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=slot.environment(),
                start_new_session=True,
            )
        self._children.append(_Child(_title(job), folder, log, slot, process))
        self._tell(f"{_title(job)}: started, {log}")

    def _look(self) -> None:
        """Let those go that have ended, and end those that have been cancelled before they began."""
        for child in list(self._children):
            if child.process.poll() is not None:
                self._children.remove(child)
                self._free.append(child.slot)
                self._tell(f"{child.title}: {child.end()}")
                self._progress.advance(1)
            elif is_cancelled(child.folder):
                child.ask_to_end()

    @contextmanager
    def _ending_with_children(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        """Ask all children to end and wait for them; kill them when the person who waits is out of patience."""
        with ExitStack() as killing:
            killing.callback(self._kill)
            for child in self._children:
                child.ask_to_end()
            for folder in (workspace.of(job.config).folder for job in self._waiting):
                if not is_cancelled(folder):
                    _note_if_possible(folder, "interrupted")
            if self._children:
                self._tell(f"waiting for {len(self._children)} runs to keep what they have (Ctrl-C again kills them)")
            while self._children:
                time.sleep(POLLED_EVERY)
                self._look()

    def _kill(self) -> None:
        for child in self._children:
            child.kill()

    def _tell(self, text: str) -> None:
        """A line above the bar."""
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


def _signal(process: int, number: signal.Signals) -> None:
    """To a process, unless it has just ended."""
    with suppress(ProcessLookupError):
        os.kill(process, number)


def _descendants(process: int) -> Iterator[int]:
    """All that a process has started, with all that those have; none where there is no /proc."""
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield from _descendants(child)
                yield child


def _note_if_possible(folder: Path, status: Status, reason: str = "") -> None:
    """A disk that is full must stop no run that could go on: then the lease that is not renewed says it."""
    with suppress(UserError, OSError):
        note(folder, status, reason)


@contextmanager
def _opened(log: Path) -> Iterator[int]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        out = log.open("xb")
    except OSError as error:
        raise disk_error(log, error) from error
    with out:
        yield out.fileno()


def _title(job: Job) -> str:
    config = job.config
    return f"{config.run_id} {config.exact_name} {config.registers.preset} seed {config.seed}"


def _last_line(log: Path) -> str:
    """What a process said last, as far as a table has room for it."""
    lines = log.read_bytes()[-4096:].decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if re.search(r"\w", line)), "")[:LONGEST_REASON]
