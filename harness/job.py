"""Carry out a run as a job: what every launcher starts, wherever it does."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from harness import torchrun
from harness.distributed import joined
from harness.errors import UserError
from harness.executing import executed
from harness.frozen import Frozen
from harness.lease import Taken
from harness.progress import say
from harness.run import advance, follow
from harness.run_state import is_cancelled, note, read_state
from harness.signals import TERMINATED, terminable
from harness.spec import RunConfig
from harness.workspace import Worker, of

BAD_INPUT, INTERRUPTED = 2, 130


class Job(Frozen):
    """A run, and which part of it: training and evaluation may be jobs of their own, on machines of other sizes."""

    config: RunConfig
    part: Literal["all", "train", "evaluate"] = "all"


def carry_out(job: Job, name: str, restart: int = 0) -> None:
    """Do a job under the name that its launcher gave it; `restart` counts how often it was started again.

    Does nothing where the run has its record, was cancelled, or another process is at work on it.  How it ends stands
    in the run's state.  Raises UserError where the job was started again twice, and kept nothing new in between.
    """
    worker = Worker(name, restart)
    with joined(job.config.execution) as world:
        until_trained = job.part == "train"
        if world.by_first(lambda: is_cancelled(of(job.config).folder)):
            say(f"run {job.config.run_id} was cancelled before it began")
            return
        if not world.is_first:
            follow(job.config, world, until_trained=until_trained)
            return
        try:
            _require_progress(job.config, worker)
            advance(job.config, worker, world, until_trained=until_trained)
        except Taken as taken:
            say(f"nothing to do: {taken.problem}")
        except UserError as error:
            note(of(job.config).folder, "failed", error.problem)
            raise


def main(words: Sequence[str]) -> int:
    """`python -m harness.job FILE NAME`: carry out the Job that is kept as JSON in a file; returns the exit code."""
    file, name = words
    try:
        with terminable():
            carry_out(_here(Job.model_validate_json(Path(file).read_bytes())), name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit:
        return TERMINATED
    return 0


def _here(job: Job) -> Job:
    """The same job as this process takes part in it, where torchrun started several."""
    return job.model_copy(update={"config": executed(job.config, **torchrun.told())})


def _require_progress(config: RunConfig, worker: Worker) -> None:
    """A job that is started again and again, and never gets further, would do so for ever."""
    space = of(config)
    state = read_state(space.folder)
    last = state.attempts[-1] if state and state.attempts else None
    if last is None or last.job != worker.job or not 0 < last.restart < worker.restart:
        return
    if last.kept == space.kept():
        raise UserError(
            f"started again {worker.restart} times, and kept nothing new since the last time",
            "give it more time (--time), or look into its logs for what takes so long before the first checkpoint",
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
