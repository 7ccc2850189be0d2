"""The parts of this machine that jobs have, each one job at a time: threads and GPUs (no torch)."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.executing import executed
from harness.job import Job
from harness.processes import cores
from harness.progress import say

CORES_PER_WORKER = 4
SECONDS_TO_ANSWER = 30
LIBRARIES_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """What one job gets: `gpus` as CUDA is told them ("0", or "0,1" for a process each), `threads` for each process.

    Without GPUs of its own, a job sees what this process does.
    """

    threads: int
    gpus: str | None

    @property
    def processes(self) -> int:
        """One for each GPU."""
        return len(self.gpus.split(",")) if self.gpus else 1

    def environment(self) -> dict[str, str]:
        """The variables of a process that works here."""
        own = dict.fromkeys(LIBRARIES_THREADS, str(self.threads))
        return {**os.environ, **own, **({} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": self.gpus})}

    def command(self, file: Path, name: str) -> list[str]:
        """What carries out the job in a file, under its launcher's name."""
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}", "-m"]
        return [sys.executable, "-m", *(torchrun if self.processes > 1 else []), "harness.job", str(file), name]

    def fitted(self, job: Job) -> Job:
        """The job, with no more threads than there are here."""
        threads = min(job.config.execution.threads or self.threads, self.threads)
        return job.model_copy(update={"config": executed(job.config, threads=threads, processes=self.processes)})


def slots_here(workers: int, gpus: int) -> list[Slot]:
    """A slot for each of so many workers, with so many GPUs each; without a number of them as many as fit.

    That is one for each GPU, or for every four cores.  The cores are divided among them; more workers than there are
    GPUs share those in turns.  Raises UserError where more GPUs are asked for than there are.
    """
    visible = visible_gpus()
    if gpus > len(visible):
        raise UserError(f"--gpus {gpus}, and there are {len(visible)} here", "ask for fewer, or use --launcher slurm")
    each = max(gpus, 1)
    groups = [",".join(visible[start : start + each]) for start in range(0, len(visible) - each + 1, each)]
    workers = workers or len(groups) or max(cores() // CORES_PER_WORKER, 1)
    threads = max(cores() // (workers * each), 1)
    return [Slot(threads, groups[number % len(groups)] if groups else None) for number in range(workers)]


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that CUDA would see, asked without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER, check=False)
    except subprocess.TimeoutExpired:
        say(f"nvidia-smi does not answer within {SECONDS_TO_ANSWER} s: taken for no GPUs")
        return ()
    return tuple(answer.stdout.split()) if answer.returncode == 0 else ()
