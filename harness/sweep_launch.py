"""Start what a sweep lacks, or stop what it has begun (no torch but in a job)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import sweep_store
from harness.files import require_writable
from harness.job import Job
from harness.local_pool import claim, end_work
from harness.locks import alone_in
from harness.progress import say
from harness.run_state import jobs_of, note, read_state
from harness.sweep_status import SCHEDULED, Known, SeenJob, statuses
from harness.sweep_store import SWEEPS, Sweep
from harness.workspace import of


def look(names: Sequence[str]) -> Mapping[str, SeenJob]:
    """What launchers say of jobs; they are imported when there is something to ask."""
    from harness import launch

    return launch.look(names)


def start(sweep: Sweep, runs: Path) -> list[Known]:
    """Have every run carried out that has no record and is in nobody's hands; returns those.

    Two that start the same runs at once start each of them once: whoever comes second sees them queued.  With the local
    launcher this returns when the last of them has ended, with Slurm at once.  Raises UserError where a folder cannot
    be written, and where Slurm refuses.
    """
    from harness.launch import launcher_of

    launcher = launcher_of(sweep.launch)
    for results in {config.execution.results for config in sweep.runs}:
        require_writable(Path(results))
    with alone_in(runs / SWEEPS):
        sweep_store.keep(runs, sweep)
        lacking = [known for known in statuses(sweep.runs, look) if not (known.is_over or known.is_in_hand)]
        jobs = [Job(config=known.config) for known in lacking]
        waits_for_the_end = sweep.launch.launcher != "slurm"
        if waits_for_the_end:
            claim(jobs)
        elif jobs:
            launcher.submit(jobs)
    if waits_for_the_end and jobs:
        launcher.submit(jobs)
    return lacking


def cancel(sweep: Sweep) -> list[Known]:
    """End what works on the sweep's runs, or is going to; returns the runs that this was done to.

    What they have made so far is kept.  What a person runs without a launcher is left alone.
    """
    from harness import launch

    chosen = [known for known in statuses(sweep.runs, look) if known.is_in_hand and known.job]
    waiting = [known for known in chosen if known.status != "running"]
    working = [known for known in chosen if known.status == "running"]
    # A run has two jobs where it is evaluated apart; those that have ended stay as they are.
    jobs = [job for known in chosen for job in jobs_of(of(known.config).folder)]
    launch.cancel([job for job in jobs if job.startswith(SCHEDULED)])
    for known in waiting:
        note(of(known.config).folder, "cancelled")
    for known in working:
        if not known.job.startswith(SCHEDULED):
            _end(known)
    return chosen


def _end(known: Known) -> None:
    folder = of(known.config).folder
    state = read_state(folder)
    if state is None or state.status != "running" or state.worker is None:
        return
    if not state.worker.is_here():
        say(f"{known.run_id} is worked on by {state.worker.words()}: cancel it there")
    elif not end_work(state.worker):
        say(f"{known.run_id}: {state.worker.words()} does not end")
    elif (after := read_state(folder)) is not None and after.status == "interrupted":
        note(folder, "cancelled")
