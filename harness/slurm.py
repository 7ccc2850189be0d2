"""Ask Slurm what has become of jobs, and tell it to end some (no torch, no submitit)."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from harness.errors import UserError

SECONDS_TO_ANSWER = 60
UNKNOWN = "unknown to Slurm"
_NOT_OVER = {
    "COMPLETING",
    "CONFIGURING",
    "PENDING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "RESIZING",
    "RUNNING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
}
# sbatch takes these variables for more important than what stands in a job's file.
_OTHER_VARIABLES = {"SBATCH_TIME": "SBATCH_TIMELIMIT", "SBATCH_MEM": "SBATCH_MEM_PER_NODE"}


def require() -> None:
    """Raise UserError unless jobs can be submitted from here."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("there is no Slurm here: no sbatch", "log in to a node of the cluster, or use --launcher local")


def words_of(jobs: Sequence[str]) -> Mapping[str, str]:
    """How each job is, such as RUNNING, "FAILED 0:9" or "CANCELLED by 0"; jobs of arrays are called 123_4.

    Raises UserError where Slurm does not answer.
    """
    if not jobs:
        return {}
    numbers = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    queued = _queued(numbers)
    over = [job for job in jobs if is_over(queued.get(job, UNKNOWN))]
    ended = _ended(numbers) if over else {}
    return {job: _last_word(queued.get(job), ended.get(job)) for job in jobs}


def is_over(word: str) -> bool:
    """Whether a job in this state does nothing any more, and will not start again."""
    return word.partition(" ")[0] not in _NOT_OVER


def end(jobs: Sequence[str]) -> None:
    """Cancel jobs, whether they wait or run; those that have ended stay as they are.

    Raises UserError where Slurm does not answer, or does not let this user.
    """
    if not jobs:
        return
    answer = _ask("scancel", "--quiet", *jobs)
    if answer.returncode:
        raise UserError(f"scancel: {last_line(answer.stderr)}", "see `squeue --me` for what still runs")


def cancels_preempted(partition: str) -> bool:
    """Whether jobs that must give way to others are ended for good there; False where Slurm does not say.

    Without a name it is the cluster's default partition.
    """
    answer = _ask("scontrol", "--oneliner", "show", "partition", *([partition] if partition else []))
    lines = [line for line in answer.stdout.splitlines() if partition or "Default=YES" in line.split()]
    return any("PreemptMode=CANCEL" in line.split() for line in lines)


@contextmanager
def submitting(parameters: Sequence[str]) -> Iterator[None]:
    """An environment in which `parameters` hold as sbatch is given them.

    Within it nothing tells of the job that the submitter may be itself, nor are there variables that would overrule.
    """
    overruling = {f"SBATCH_{name.upper().replace('-', '_')}" for name in parameters}
    overruling |= {_OTHER_VARIABLES[name] for name in overruling & _OTHER_VARIABLES.keys()}
    of_this_job = {name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"}
    hidden = {name: os.environ.pop(name) for name in (of_this_job | overruling) & os.environ.keys()}
    try:
        yield
    finally:
        os.environ.update(hidden)


def last_line(text: str) -> str:
    """The end of what a Slurm command complains, without its name."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^\w+: (error: |fatal: )?", "", lines[-1]) if lines else "it gives no reason"


def _queued(numbers: str) -> dict[str, str]:
    answer = _ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={numbers}", "--format=%i|%T")
    if answer.returncode and "Invalid job id" not in answer.stderr:
        raise UserError(f"Slurm does not answer: {last_line(answer.stderr)}", "try again later, or ask your admin")
    return _states(answer.stdout)


def _ended(numbers: str) -> dict[str, str]:
    """What the accounting knows; nothing where the cluster has none."""
    columns = "--format=JobID,State,ExitCode"
    answer = _ask("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={numbers}", columns)
    return _states(answer.stdout)


def _states(table: str) -> dict[str, str]:
    """Rows of `job|state` or `job|state|exit code`."""
    states = {}
    for row in table.splitlines():
        job, state, *code = row.split("|")
        states[job.strip()] = f"{state} {code[0]}" if code and state in ("FAILED", "NODE_FAIL") else state
    return states


def _last_word(queued: str | None, ended: str | None) -> str:
    """The queue is up to date; the accounting lags some seconds, but knows more of what is over."""
    if queued is not None and not is_over(queued):
        return queued
    if ended is not None and is_over(ended):
        return ended
    return queued or UNKNOWN


def _ask(*command: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER, check=False
        )
    except FileNotFoundError:
        raise UserError(f"there is no Slurm here: no {command[0]}", "ask on a node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"Slurm does not answer: {command[0]} took more than {SECONDS_TO_ANSWER} s", "try again later"
        ) from None
