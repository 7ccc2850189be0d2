"""Start what a sweep lacks, or stop what it has begun (no torch but in a job)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import sweep_store
from harness.files import require_writable
from harness.job import Job
from harness.launcher_names import is_scheduled
from harness.local_pool import end_work
from harness.locks import alone_among_machines
from harness.progress import say
from harness.run_state import jobs_of, note, read_state
from harness.sweep_status import Known, SeenJob, statuses
from harness.sweep_store import SWEEPS, Sweep
from harness.workspace import of

if TYPE_CHECKING:
    from harness.launch import Launcher


def look(names: Sequence[str]) -> Mapping[str, SeenJob]:
    """What launchers say of jobs; they are imported when there is something to ask."""
    from harness import launch

    return launch.look(names)


def start(sweep: Sweep, launcher: "Launcher", runs: Path) -> list[Known]:
    """Have every run carried out that has no record and is in nobody's hands; returns those.

    Two that start the same runs at once start each of them once: whoever comes second sees them queued.  With a
    launcher that works here this returns when the last of them has ended.  Raises UserError where a folder cannot be
    written, and where Slurm refuses.
    """
    for results in {config.execution.results for config in sweep.runs}:
        require_writable(Path(results))
    with alone_among_machines(runs / SWEEPS):
        sweep_store.keep(runs, sweep)
        lacking = [known for known in statuses(sweep.runs, look) if not (known.is_over or known.is_in_hand)]
        if not lacking:
            return []
        rest = launcher.submit([_job(known) for known in lacking])
    rest()
    return lacking


def cancel(sweep: Sweep) -> list[Known]:
    """End what works on the sweep's runs, or is going to; returns the runs that this was done to.

    What they have made so far is kept.  What a person runs without a launcher is left alone.
    """
    from harness import launch

    chosen = [known for known in statuses(sweep.runs, look) if known.is_in_hand and known.job]
    # A run has two jobs where it is evaluated apart; those that have ended stay as they are.
    jobs = [job for known in chosen for job in jobs_of(of(known.config).folder)]
    launch.cancel(list(filter(is_scheduled, jobs)))
    waiting = [known for known in chosen if known.status != "running"]
    for known in waiting:
        note(of(known.config).folder, "cancelled")
    # What waits must be told before anything is waited for: it would start in place of what ends.
    return [known for known in chosen if known in waiting or is_scheduled(known.job) or _end(known)]


def _job(known: Known) -> Job:
    """What is left of it."""
    return Job(config=known.config, part="evaluate" if known.status == "trained" else "all")


def _end(known: Known) -> bool:
    """Whether the process that works on a run here has ended, or nobody does any more."""
    folder = of(known.config).folder
    state = read_state(folder)
    if state is None or state.status != "running" or state.worker is None:
        return True
    if not state.worker.is_here():
        say(f"{known.run_id} is worked on by {state.worker.words()}: cancel it there")
        return False
    if not end_work(state.worker):
        say(f"{known.run_id}: {state.worker.words()} does not end")
        return False
    after = read_state(folder)
    if after is not None and after.status == "interrupted":
        note(folder, "cancelled")
    return True
