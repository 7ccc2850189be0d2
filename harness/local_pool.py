"""Work through jobs on this machine, so many at once, with threads and GPUs shared out among them (no torch)."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from harness import workspace
from harness.errors import disk_error
from harness.files import write_text
from harness.job import Job
from harness.processes import ProcessIdentity, this_process
from harness.progress import Progress
from harness.run_state import jobs_of, note, note_job, read_state
from harness.signals import terminable

LOCAL = "local:"
POLLED_EVERY, PATIENCE = 0.2, 30.0
JOB, LOGS = "job.json", "logs"
LIBRARIES_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LONGEST_REASON = 300


def pool_name() -> str:
    """What the pool of this process is called: by this name any process on the same machine knows whether it lives."""
    it = this_process()
    return f"{LOCAL}{it.process}-{it.started}@{it.host}~{it.boot}~{it.namespace}"


def pool_is_alive(name: str) -> bool:
    """Whether the pool of that name still works.  Of one on another machine nothing is known: it counts as alive."""
    return not _process_of(name).is_gone()


def claim(jobs: Iterable[Job]) -> None:
    """Say of every job that the pool of this process is going to do it.  Raises UserError where a disk is full."""
    for job in jobs:
        folder = workspace.of(job.config).folder
        note(folder, "queued")
        note_job(folder, pool_name())


def run_pool(jobs: Sequence[Job], workers: int, threads: int, gpus: Sequence[str]) -> None:
    """Carry out jobs, at most `workers` at once, each with `threads`, and return when the last has ended.

    Each entry of `gpus` is what one job sees of CUDA ("0", or "0,1" for two GPUs with a process each), in turns; with
    none, jobs see what this process does.  What is not claimed yet is claimed.  A job that fails stops no other: why it
    did stands in its run's state.  What has been cancelled since is passed over.  When interrupted, or told to end, the
    pool asks its jobs to end, waits for them, and raises what ended it; asked again, it kills them.
    """
    name = pool_name()
    claim(job for job in jobs if jobs_of(workspace.of(job.config).folder)[-1:] != [name])
    slots = [_Slot(threads, gpus[number % len(gpus)] if gpus else None) for number in range(workers)]
    with Progress("runs", len(jobs)) as progress:
        _Pool(name, slots, progress).work(jobs)


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


@dataclass(frozen=True)
class _Slot:
    """The part of the machine that one job has at a time."""

    threads: int
    gpus: str | None

    @property
    def processes(self) -> int:
        """One for each GPU."""
        return len(self.gpus.split(",")) if self.gpus else 1

    def environment(self) -> dict[str, str]:
        own = dict.fromkeys(LIBRARIES_THREADS, str(self.threads))
        return {**os.environ, **own, **({} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": self.gpus})}

    def command(self, file: Path, name: str) -> list[str]:
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}", "-m"]
        return [sys.executable, "-m", *(torchrun if self.processes > 1 else []), "harness.job", str(file), name]

    def fitted(self, job: Job) -> Job:
        execution = job.config.execution
        update = {"threads": min(execution.threads or self.threads, self.threads), "processes": self.processes}
        config = job.config.model_copy(update={"execution": execution.model_copy(update=update)})
        return job.model_copy(update={"config": config})


@dataclass
class _Child:
    """A process at work on a job, in a session of its own: a terminal's Ctrl-C reaches the pool alone."""

    title: str
    folder: Path
    log: Path
    slot: _Slot
    process: subprocess.Popen[bytes]
    is_asked: bool = False

    def ask_to_end(self) -> None:
        """Once: a second time would break off what it does to end in good order."""
        if not self.is_asked and self.process.poll() is None:
            _signal(self.process.pid, signal.SIGTERM)
        self.is_asked = True

    def kill(self) -> None:
        """With all processes that it has started."""
        if self.process.poll() is None:
            _signal(self.process.pid, signal.SIGKILL, group=True)

    def end(self) -> str:
        """Keep in the run's state how it ended, where it could not do so itself; returns that in words."""
        code, state = self.process.returncode, read_state(self.folder)
        status = state.status if state else "queued"
        if status in ("queued", "running"):
            if code == 0:
                return "left to another process"
            reason = f"killed by {signal.Signals(-code).name}" if code < 0 else _last_line(self.log)
            note(self.folder, "failed", reason or f"ended with exit code {code}")
            state = read_state(self.folder)
        if state is None:
            return f"ended with exit code {code}"
        return f"{state.status}: {state.reason}" if state.reason else state.status


class _Pool:
    """Jobs, the slots that are free, and the children in the others."""

    def __init__(self, name: str, slots: Sequence[_Slot], progress: Progress) -> None:
        self._name, self._free, self._progress = name, list(slots), progress
        self._children: list[_Child] = []
        self._waiting: deque[Job] = deque()

    def work(self, jobs: Sequence[Job]) -> None:
        self._waiting.extend(jobs)
        with terminable(), self._ending_with_children():
            while self._waiting or self._children:
                while self._waiting and self._free:
                    self._start(self._waiting.popleft())
                time.sleep(POLLED_EVERY)
                self._look()

    def _start(self, job: Job) -> None:
        folder = workspace.of(job.config).folder
        if _is_cancelled(folder):
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
            elif _is_cancelled(child.folder):
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
            for job in self._waiting:
                if not _is_cancelled(workspace.of(job.config).folder):
                    note(workspace.of(job.config).folder, "interrupted")
            for child in self._children:
                child.ask_to_end()
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


def _process_of(name: str) -> ProcessIdentity:
    match = re.fullmatch(rf"{LOCAL}(\d+)-([^@]*)@(.*)~(.*)~(.*)", name)
    assert match, f"{name} names no pool"
    process, started, host, boot, namespace = match.groups()
    return ProcessIdentity(host=host, boot=boot, namespace=namespace, process=int(process), started=started)


def _signal(process: int, number: signal.Signals, *, group: bool = False) -> None:
    """To a process, or to all of its group, unless it has just ended."""
    with suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(process, number)


@contextmanager
def _opened(log: Path) -> Iterator[int]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        out = log.open("xb")
    except OSError as error:
        raise disk_error(log, error) from error
    with out:
        yield out.fileno()


def _is_cancelled(folder: Path) -> bool:
    state = read_state(folder)
    return state is not None and state.status == "cancelled"


def _title(job: Job) -> str:
    config = job.config
    return f"{config.run_id} {config.exact_name} {config.registers.preset} seed {config.seed}"


def _last_line(log: Path) -> str:
    """What a process said last, as far as a table has room for it."""
    lines = log.read_bytes()[-4096:].decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:LONGEST_REASON]
