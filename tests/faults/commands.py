"""Start `python -m harness run` as a process that can be killed, and look how far it has come."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from harness import workspace
from harness.lease import holder
from harness.store import MEASURED
from tests.faults.trials import Trial
from tests.nursery import fork

ROOT = Path(__file__).parents[2]
PATIENCE = 180.0
STDOUT, STDERR = 1, 2
POLLED_EVERY = 0.002

# In their order.  "saving" comes back with every checkpoint.
PHASES = ("starting", "preparing", "training", "saving", "sampling", "judging", "publishing", "indexing")

_COUNT = itertools.count()


class Command:
    """A process that makes a run.

    A `fresh` one is `python -m harness` as everybody starts it.  Others are forked with all imports done, and keep a
    checkpoint at every stop, so that kills fall into the writing of them too.
    """

    def __init__(self, trial: Trial, place: Path, *, is_fresh: bool = False) -> None:
        self.config = trial.config(place)
        self.space = workspace.of(self.config)
        self._log = place.parent / "logs" / f"{self.config.run_id}-{next(_COUNT):04d}.txt"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._began = time.time()
        start = _fresh if is_fresh else _forked
        self._pid, self.poll = start(trial.words(place), self._log)

    def send(self, number: int) -> None:
        """A signal; nothing happens where the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def wait(self) -> int:
        """The exit code; minus the signal where one ended it."""
        patience = time.monotonic() + PATIENCE
        while (code := self.poll()) is None:
            if time.monotonic() > patience:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"{self._log}: no end after {PATIENCE:.0f} s")
            time.sleep(0.01)
        return code

    def said(self) -> str:
        """All that it printed."""
        return self._log.read_text(errors="replace")

    def tail(self) -> str:
        """The last of it, for whoever looks for the cause."""
        return self.said()[-2000:]

    def records(self) -> list[Path]:
        """Its run's records among the results."""
        folder = Path(self.config.execution.results) / MEASURED / self.config.task.name / self.config.backbone
        return sorted(folder.glob(f"*-{self.config.run_id}.json"))

    def phase(self) -> str:
        """How far it is, by the files that it has made since it began."""
        folder, checkpoints = self.space.folder, self.space.checkpoints
        if self.records():
            return "indexing"
        if not self._has_made(folder.glob("lease-*.json")):
            return "starting"
        if self.space.record.exists():
            return "publishing"
        if self._has_made([self.space.samples]):
            return "judging"
        if self._has_made([self.space.weights]):
            return "sampling"
        if self._has_made([*checkpoints.glob(".*.part"), checkpoints / "staged.pt"]):
            return "saving"
        return "training" if self._has_made(checkpoints.glob("step-*.pt")) else "preparing"

    def has_reached(self, phase: str) -> bool:
        """Whether it has come to a phase, or past it."""
        return PHASES.index(self.phase()) >= PHASES.index(phase)

    def is_at_work(self) -> bool:
        """Whether it holds the run."""
        found = holder(self.space.folder)
        return found is not None and found.owner is not None and found.owner.process.process == self._pid

    def reach(self, phase: str) -> bool:
        """Wait until it has come to a phase; False where it ended before."""
        while not self.has_reached(phase):
            if self.poll() is not None:
                return False
            time.sleep(POLLED_EVERY)
        return self.poll() is None

    def _has_made(self, paths: Iterable[Path]) -> bool:
        return any(_written(path) >= self._began for path in paths)


def carry_out(words: Sequence[str], log: Path) -> None:
    """Be a command, with checkpoints at every stop."""
    with log.open("wb") as out:
        os.dup2(out.fileno(), STDOUT)
        os.dup2(out.fileno(), STDERR)
    from harness import checkpoint, train
    from harness.cli import main

    checkpoint.SECONDS_BETWEEN, checkpoint.MOST_OVERHEAD, train.LOG_EVERY = 0.0, 1e9, 2
    sys.exit(main(words))


def _fresh(words: Sequence[str], log: Path) -> tuple[int, Callable[[], int | None]]:
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "harness", *words], cwd=ROOT, stdout=out, stderr=out)
    return process.pid, process.poll


def _forked(words: Sequence[str], log: Path) -> tuple[int, Callable[[], int | None]]:
    log.touch()
    process = fork(carry_out, words, log)
    return process.pid, process.poll


def _written(path: Path) -> float:
    """When; 0 where it is gone already."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
