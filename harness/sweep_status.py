"""How far the runs of a sweep are: their records, their states, and what launchers say of their jobs (no torch)."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from harness import lease, store
from harness.launcher_names import is_scheduled
from harness.run_state import RunState, jobs_of, read_state
from harness.spec import RunConfig

# A scheduler knows sooner than a lease expires; but a sign of life may be late by one.
SILENT_AFTER = 2 * lease.RENEWED_EVERY
# COMPLETING is what a job says while its scheduler puts it back into the queue.
WAITING_WORDS = frozenset({"COMPLETING", "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"})
HEAD = 1024
ID_DIGITS = 12

Status = Literal[
    "missing",
    "queued",
    "running",
    "lost",
    "failed",
    "interrupted",
    "cancelled",
    "trained",
    "finished",
    "diverged",
]
ORDER: tuple[Status, ...] = (
    "finished",
    "diverged",
    "running",
    "trained",
    "queued",
    "lost",
    "failed",
    "interrupted",
    "cancelled",
    "missing",
)


class SeenJob(Protocol):
    """What a launcher says of a job: whether it waits or works, and its word for that."""

    @property
    def alive(self) -> bool: ...

    @property
    def word(self) -> str: ...


Look = Callable[[Sequence[str]], Mapping[str, SeenJob]]


@dataclass(frozen=True)
class Known:
    """What is known of a run.  `step` of `total` are what `phase` counts; `job` is the launcher's name of the newest.

    `is_in_hand` says that somebody works on it, or is going to.
    """

    config: RunConfig
    run_id: str
    status: Status
    phase: str = ""
    step: int = 0
    total: int = 0
    reason: str = ""
    job: str = ""
    host: str = ""
    updated: str = ""
    is_in_hand: bool = False

    @property
    def is_over(self) -> bool:
        """Whether it has its record."""
        return self.status in ("finished", "diverged")

    def shown(self) -> dict[str, Any]:
        """For machines."""
        config = self.config
        return {
            "run_id": self.run_id,
            "status": self.status,
            "step": self.step,
            "total": self.total,
            "phase": self.phase,
            "reason": self.reason,
            "backbone": config.exact_name,
            "registers": config.registers.preset,
            "seed": config.seed,
            "job": self.job,
            "host": self.host,
            "updated": self.updated,
        }


def statuses(configs: Sequence[RunConfig], look: Look) -> list[Known]:
    """What is known of each run.  `look` is asked once, and only where the files do not tell."""
    records = _records_of(configs)
    found = [_Found(config, records) for config in configs]
    times = {folder: lease.disk_time(folder) for folder in {each.folder.parent for each in found} if folder.is_dir()}
    for each in found:
        each.read(times.get(each.folder.parent))
    doubtful = sorted({each.job for each in found if each.is_doubtful})
    seen = look(doubtful) if doubtful else {}
    return [each.judged(seen.get(each.job)) for each in found]


def counts(known: Iterable[Known]) -> dict[str, int]:
    """How many runs have each status, in a fixed order."""
    counted = Counter(each.status for each in known)
    return {status: counted[status] for status in ORDER if counted[status]}


class _Found:
    """What the files say of one run."""

    def __init__(self, config: RunConfig, records: Mapping[str, Path]) -> None:
        self.config, self.run_id = config, config.run_id
        self.folder = Path(config.execution.runs, self.run_id)
        self._record = records.get(self.run_id)
        self._state: RunState | None = None
        self._holder: lease.Holder | None = None
        self.job = ""

    def read(self, now: float | None) -> None:
        """Read the run's folder; `now` is its disk's time, None where no run has a folder."""
        if now is None:
            return
        self._state = read_state(self.folder)
        if self._record is None and self._state is not None and self._state.status == "running":
            self._holder = lease.holder(self.folder, now)
        self.job = self._newest_job()

    @property
    def is_doubtful(self) -> bool:
        """Whether a launcher has to be asked."""
        if self._record is not None or self._state is None or not self.job:
            return False
        if self._state.status == "interrupted":
            return self._is_scheduled()
        if self._state.status == "running":
            return self._is_silent() or (self._is_scheduled() and self._is_late())
        return self._state.status in ("queued", "trained")

    def judged(self, seen: SeenJob | None) -> Known:
        """What is to be thought of it, given what the launcher of its job says."""
        if self._record is not None:
            return self._known("diverged" if _has_diverged(self._record) else "finished")
        state = self._state
        if state is None:
            return self._known("missing")
        match state.status:
            case "finished" | "diverged":
                return self._known("missing", f"it {state.status}, and its record is not in {self._results()}")
            case "queued":
                return self._queued(seen)
            case "running":
                return self._running(state, seen)
            case "interrupted" if seen is not None and self._is_scheduled():
                return self._come_back(seen)
            case _:
                in_hand = state.status == "trained" and seen is not None and seen.alive
                return self._known(state.status, _last_line(state.reason), is_in_hand=in_hand)

    def _queued(self, seen: SeenJob | None) -> Known:
        if seen is not None and seen.alive:
            return self._known("queued", is_in_hand=True)
        if seen is None:
            return self._known("failed", "it was queued, and no launcher knows of it")
        return self._gone(seen)

    def _running(self, state: RunState, seen: SeenJob | None) -> Known:
        if seen is not None and self._is_scheduled():
            return self._by_scheduler(seen)
        if not self._is_silent():
            return self._known("running", is_in_hand=True)
        if state.worker is not None and state.worker.is_gone():
            return self._known("failed", "its process ended without a word (killed?)")
        return self._known("lost", self._silence())

    def _by_scheduler(self, seen: SeenJob) -> Known:
        """One that hangs is in the hands of its job: that has to be cancelled before another may begin."""
        if not seen.alive:
            return self._gone(seen, "killed: ")
        if seen.word in WAITING_WORDS:
            return self._known("queued", is_in_hand=True)
        if not self._is_silent():
            return self._known("running", is_in_hand=True)
        return self._known("lost", f"{self._silence()}: {seen.word}; `sweep cancel` ends it", is_in_hand=True)

    def _come_back(self, seen: SeenJob) -> Known:
        """A scheduler starts an interrupted job again, unless it has given it up."""
        if seen.alive:
            return self._known("queued", is_in_hand=True)
        return self._gone(seen) if _was_cancelled(seen) else self._known("interrupted", seen.word)

    def _gone(self, seen: SeenJob, how: str = "") -> Known:
        if _was_cancelled(seen):
            return self._known("cancelled", seen.word)
        return self._known("failed", f"{how}{seen.word}")

    def _known(self, status: Status, reason: str = "", *, is_in_hand: bool = False) -> Known:
        state = self._state
        return Known(
            self.config,
            self.run_id,
            status,
            phase=state.phase if state else "",
            step=state.done if state else 0,
            total=state.total if state else 0,
            reason=reason,
            job=self.job,
            host=state.worker.host if state and state.worker else "",
            updated=state.updated.isoformat() if state else "",
            is_in_hand=is_in_hand,
        )

    def _newest_job(self) -> str:
        """Of a run that is worked on, the one that does it; else that which it was given to last."""
        if self._state is None:
            return ""
        if self._state.status == "running" and self._state.attempts:
            return self._state.attempts[-1].job
        return next(reversed(jobs_of(self.folder)), "")

    def _is_silent(self) -> bool:
        assert self._state is not None, "nothing is known"
        return self._state.status == "running" and (self._holder is None or not self._holder.is_alive)

    def _is_late(self) -> bool:
        return self._holder is not None and self._holder.age > SILENT_AFTER

    def _is_scheduled(self) -> bool:
        return is_scheduled(self.job)

    def _silence(self) -> str:
        age = f" for {self._holder.age:.0f} s" if self._holder and not self._holder.is_given_back else ""
        return f"no sign of life{age}"

    def _results(self) -> str:
        return self.config.execution.results


def _records_of(configs: Sequence[RunConfig]) -> dict[str, Path]:
    """The newest record of each run that has one, from one listing of each folder."""
    folders = {store.folder_of(Path(config.execution.results), config) for config in configs}
    return {path.stem[-ID_DIGITS:]: path for folder in folders for path in sorted(_json_files(folder))}


def _json_files(folder: Path) -> Iterator[Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 (a Path for each of 10,000 other files is slow)
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from (folder / name for name in names if name.endswith(".json"))


def _has_diverged(record: Path) -> bool:
    """The status stands at the head of a record: the rest, often 100 kB, need not be read."""
    with record.open("rb") as file:
        found = re.search(rb'"status"\s*:\s*"(\w+)"', file.read(HEAD))
    return found is not None and found[1] == b"diverged"


def _was_cancelled(seen: SeenJob) -> bool:
    return seen.word.startswith("CANCELLED")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
