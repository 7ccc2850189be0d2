"""What is known of a run on its way: who works on it, how far it is, how it ended (no torch)."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from harness.errors import disk_error
from harness.files import write_text
from harness.frozen import Frozen, NonNegativeInt
from harness.processes import ProcessIdentity

STATE, JOBS = "state.json", "jobs.jsonl"

Status = Literal["queued", "running", "trained", "finished", "diverged", "failed", "interrupted", "cancelled"]


class Attempt(Frozen):
    """One start of a run.  `kept` is what was on disk then: the checkpoint's step, and files of later phases.

    `job` is the launcher's name for it ("slurm:123_4"), empty where a person typed `run`; `restart` counts requeues.
    """

    job: str
    restart: NonNegativeInt
    kept: tuple[NonNegativeInt, NonNegativeInt]
    started: datetime


class RunState(Frozen):
    """The state of a run, in its folder as `state.json`.

    `queued` is written by whoever hands the run to a launcher, everything else by the process that works on it.
    `phase` is what its progress bar says ("training"), `done` of `total` are that bar's units.  `reason` is why a run
    failed: the last line of the error.  A run that says "running" runs only while its lease is alive.
    """

    status: Status
    phase: str = ""
    done: NonNegativeInt = 0
    total: NonNegativeInt = 0
    reason: str = ""
    worker: ProcessIdentity | None = None
    updated: datetime
    attempts: tuple[Attempt, ...] = ()


def read_state(folder: Path) -> RunState | None:
    """The state of the run in a folder; None where there is none that can be read, as after a kill by a full disk."""
    try:
        return RunState.model_validate_json((folder / STATE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    except OSError as error:
        raise disk_error(folder / STATE, error) from error


def write_state(folder: Path, state: RunState) -> None:
    """Keep the state.  Raises UserError where the folder cannot be written."""
    text = state.model_dump_json(indent=1) + "\n"
    try:
        write_text(folder / STATE, text)
    except FileNotFoundError:  # whoever begins to work on the run has just swept what others were writing
        write_text(folder / STATE, text)


def note(folder: Path, status: Status, reason: str = "") -> None:
    """Say of a run that nobody works on what has become of it; how far it had come stays known.

    "queued" has to be said before the run is handed to a launcher, as it may start at once.
    """
    now = datetime.now(UTC)
    known = read_state(folder) or RunState(status=status, updated=now)
    write_state(folder, known.model_copy(update={"status": status, "reason": reason, "updated": now}))


def is_cancelled(folder: Path) -> bool:
    """Whether somebody cancelled the run before it began, or in the middle of it."""
    state = read_state(folder)
    return state is not None and state.status == "cancelled"


def note_job(folder: Path, job: str) -> None:
    """Add the launcher's name of a job that works on this run, or is going to."""
    try:
        with (folder / JOBS).open("a", encoding="utf-8") as out:
            # A line of its own, even after one that a full disk cut short.
            out.write("\n" + json.dumps({"job": job, "submitted": datetime.now(UTC).isoformat()}) + "\n")
    except OSError as error:
        raise disk_error(folder / JOBS, error) from error


def jobs_of(folder: Path) -> list[str]:
    """The launchers' names of all jobs that this run was given to, the newest last."""
    try:
        lines = (folder / JOBS).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise disk_error(folder / JOBS, error) from error
    return [job for job in map(_job, lines) if job]


def _job(line: str) -> str:
    """A line that a full disk cut short names no job."""
    try:
        return str(json.loads(line)["job"])
    except (ValueError, KeyError, TypeError):
        return ""
