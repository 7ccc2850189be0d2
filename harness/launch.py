"""Carry jobs out here, or hand them to Slurm: the only file that knows the difference, and that imports submitit."""

import os
import secrets
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import submitit

import harness
from harness import slurm
from harness.errors import UserError, disk_error
from harness.executing import executed
from harness.job import Job, carry_out
from harness.launch_settings import LaunchSettings, LocalSettings, SlurmSettings
from harness.launcher_names import DEBUG, LOCAL, SLURM, number_of
from harness.local_pool import Pool, pool_is_alive
from harness.processes import cores
from harness.progress import say
from harness.run_state import STATE, note, note_job, read_state, write_state
from harness.slots import slots_here, visible_gpus
from harness.workspace import of

# What is left to do for whoever submitted: to be called once, and to be waited for.
Rest = Callable[[], None]

LOOPBACK = "127.0.0.1"

# Slurm's own MaxArraySize is one more, unless an admin changed it.
LARGEST_ARRAY = 1000
SHORT_MINUTES = 10

# submitit gives up after so many time-outs; we give up where a job gets no further.
TIMEOUTS = 10**6


@dataclass(frozen=True)
class Seen:
    """What a launcher says of a job: whether it waits or works, and its word for that."""

    alive: bool
    word: str


class Launcher(ABC):
    """Who carries jobs out.  `returns_at_once` says that others do it, and that nobody has to stay."""

    returns_at_once = False

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> Rest:
        """Take jobs on, of runs in one folder; each run then knows the name of its job.

        Raises UserError where they cannot be handed over; what was not is as it was before.
        """

    @abstractmethod
    def look(self, names: Sequence[str]) -> Mapping[str, Seen]:
        """What has become of jobs of this launcher."""

    @abstractmethod
    def cancel(self, names: Sequence[str]) -> None:
        """End jobs of this launcher; those that have ended stay as they are."""

    @property
    def has_gpus(self) -> bool:
        """Whether its jobs may compute on one."""
        return bool(visible_gpus())


def launcher_of(settings: LaunchSettings) -> Launcher:
    """The launcher that settings ask for."""
    match settings.launcher:
        case "slurm":
            return SlurmLauncher(settings.slurm)
        case "local":
            return LocalLauncher(settings.local)
        case "debug":
            return DebugLauncher()


def look(names: Sequence[str]) -> Mapping[str, Seen]:
    """What has become of jobs, each asked of the launcher that it was given to."""
    seen: dict[str, Seen] = {}
    for launcher, chosen in _by_launcher(names):
        seen |= launcher.look(chosen)
    return seen


def cancel(names: Sequence[str]) -> None:
    """End jobs, each by the launcher that it was given to."""
    for launcher, chosen in _by_launcher(names):
        launcher.cancel(chosen)


def _by_launcher(names: Sequence[str]) -> Iterator[tuple[Launcher, list[str]]]:
    launchers: Mapping[str, Launcher] = {
        SLURM: SlurmLauncher(SlurmSettings()),
        LOCAL: LocalLauncher(LocalSettings()),
        DEBUG: DebugLauncher(),
    }
    for prefix, launcher in launchers.items():
        chosen = [name for name in names if name.startswith(prefix)]
        if chosen:
            yield launcher, chosen


class LocalLauncher(Launcher):
    """A pool of processes on this machine; it works as long as whoever submitted stays."""

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings

    def submit(self, jobs: Sequence[Job]) -> Rest:
        slots = slots_here(self._settings.workers, self._settings.gpus)
        pool = _claimed(jobs)
        return lambda: pool.work(slots)

    def look(self, names: Sequence[str]) -> Mapping[str, Seen]:
        return {name: _seen_here(pool_name=name) for name in names}

    def cancel(self, names: Sequence[str]) -> None:
        """Nothing is to be told: a pool looks at the states of its runs, and ends what has been cancelled."""


class DebugLauncher(Launcher):
    """One job after another in this very process, for a debugger: the first error ends it."""

    def submit(self, jobs: Sequence[Job]) -> Rest:
        pool = _claimed(jobs, DEBUG)

        def rest() -> None:
            with pool.working():
                for job in jobs:
                    threads = job.config.execution.threads or cores()
                    carry_out(_with_execution(job, threads=threads), pool.name)

        return rest

    def look(self, names: Sequence[str]) -> Mapping[str, Seen]:
        return {name: _seen_here(pool_name=name) for name in names}

    def cancel(self, names: Sequence[str]) -> None:
        """Nothing is to be told: whoever debugs ends it."""


class SlurmLauncher(Launcher):
    """Jobs of a cluster, by submitit: an array for all runs, and another for the evaluations where they are apart.

    A job that is preempted, or runs out of time, goes back into the queue and on from its last checkpoint.
    """

    returns_at_once = True

    def __init__(self, settings: SlurmSettings) -> None:
        self._settings = settings

    def submit(self, jobs: Sequence[Job]) -> Rest:
        slurm.require()
        self._warn()
        for start in range(0, len(jobs), LARGEST_ARRAY):
            array = jobs[start : start + LARGEST_ARRAY]
            with _queued(array), _all_or_none() as handed:
                self._submit_array(array, handed)
        return _nothing

    def look(self, names: Sequence[str]) -> Mapping[str, Seen]:
        words = slurm.words_of(list(map(number_of, names)))
        return {name: Seen(not slurm.is_over(word), word) for name in names for word in [words[number_of(name)]]}

    def cancel(self, names: Sequence[str]) -> None:
        slurm.end(list(map(number_of, names)))

    @property
    def has_gpus(self) -> bool:
        return self._settings.gpus > 0

    def _submit_array(self, jobs: Sequence[Job], handed: list[str]) -> None:
        """Submit jobs; the numbers of the arrays that Slurm took are added to those `handed` over, as it takes them."""
        settings = self._settings
        training = _Resources(settings.nodes, settings.gpus, settings.time)
        evaluation = _Resources(1, settings.evaluate_gpus, settings.evaluate_time)
        wholes = [job for job in jobs if job.part == "all"]
        self._hand_over([job for job in jobs if job.part == "train"], training, handed)
        self._hand_over([job for job in jobs if job.part == "evaluate"], evaluation, handed)
        if settings.evaluate == "together":
            self._hand_over(wholes, training, handed)
        elif wholes:
            self._hand_over([job.model_copy(update={"part": "train"}) for job in wholes], training, handed)
            then = [job.model_copy(update={"part": "evaluate"}) for job in wholes]
            self._hand_over(then, evaluation, handed, after=handed[-1])

    def _hand_over(self, jobs: Sequence[Job], resources: "_Resources", handed: list[str], after: str = "") -> None:
        """Submit one array; each of its jobs starts once that of the array `after` has succeeded."""
        if not jobs:
            return
        runs = Path(jobs[0].config.execution.runs)
        folder = runs.absolute() / "slurm" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        parameters = _parameters(self._settings, resources)
        if after:
            parameters["slurm_dependency"] = f"{'aftercorr' if len(jobs) > 1 else 'afterok'}:{after}"
            parameters["slurm_additional_parameters"] |= {"kill-on-invalid-dep": "yes"}
        submitted = _submit([_Task(job, self._settings.cpus) for job in jobs], folder, parameters)
        handed.append(str(submitted[0].job_id).partition("_")[0])
        for job, its in zip(jobs, submitted, strict=True):
            run = of(job.config).folder
            note_job(run, f"{SLURM}{its.job_id}")
            _link_logs(run, its, resources.processes)

    def _warn(self) -> None:
        settings = self._settings
        if settings.time <= SHORT_MINUTES:
            say(f"a job has {settings.time} min only: what it does after its last checkpoint is done again each time")
        for partition in settings.partition.split(","):
            if slurm.cancels_preempted(partition):
                name = f"partition {partition}" if partition else "this cluster's partition"
                say(f"{name} cancels what it preempts, and does not start it again: `sweep resume` will")


@dataclass(frozen=True)
class _Resources:
    """What one job gets: `gpus` on each of `nodes`, for `time` minutes."""

    nodes: int
    gpus: int
    time: int

    @property
    def processes(self) -> int:
        return self.nodes * max(self.gpus, 1)


class _Task(submitit.helpers.Checkpointable):
    """A job as Slurm keeps it, which asks for nothing but to be called again.

    The job is kept as text: code that has changed since then still reads it, or says what is wrong with it.
    """

    def __init__(self, job: Job, cpus: int) -> None:
        self._text, self._cpus = job.model_dump_json(), cpus

    def __call__(self) -> None:
        """Carry it out; where several processes share it, as one of them."""
        here = submitit.JobEnvironment()
        job = Job.model_validate_json(self._text)
        together = max(here.num_tasks // here.num_nodes, 1)
        threads = job.config.execution.threads or self._cpus or max(cores() // together, 1)
        job = _with_execution(job, threads=threads)
        if here.num_tasks > 1:
            meeting = submitit.helpers.TorchDistributedEnvironment()
            if here.num_nodes == 1:
                meeting.master_addr = LOOPBACK  # a node's name in Slurm need not be its name on the network
            meeting.export(set_cuda_visible_devices=False, overwrite=True)
            job = _with_execution(job, processes=here.num_tasks, rank=here.global_rank, local_rank=here.local_rank)
        carry_out(job, f"{SLURM}{here.job_id}", int(os.environ.get("SLURM_RESTART_COUNT", "0")))


def _with_execution(job: Job, **changes: Any) -> Job:
    return job.model_copy(update={"config": executed(job.config, **changes)})


def _parameters(settings: SlurmSettings, resources: _Resources) -> dict[str, Any]:
    """What submitit is told.  srun does not take --cpus-per-task over from sbatch."""
    srun = ["--kill-on-bad-exit=1"] + ([f"--cpus-per-task={settings.cpus}"] if settings.cpus else [])
    extra = {name: value for name, value in settings.extra.items() if value is not False}
    wanted = {
        "timeout_min": resources.time,
        "nodes": resources.nodes,
        "tasks_per_node": max(resources.gpus, 1),
        "gpus_per_node": resources.gpus,
        "cpus_per_task": settings.cpus,
        "slurm_mem": settings.memory,
        "slurm_partition": settings.partition,
        "slurm_account": settings.account,
        "slurm_qos": settings.qos,
        "slurm_constraint": settings.constraint,
    }
    return {name: value for name, value in wanted.items() if value} | {
        "name": "dsr-bench",
        "stderr_to_stdout": True,
        "slurm_array_parallelism": settings.array_parallelism,
        "slurm_signal_delay_s": settings.signal_delay,
        "slurm_srun_args": srun,
        "slurm_setup": [f'export PYTHONPATH="{place}${{PYTHONPATH:+:$PYTHONPATH}}"' for place in _import_places()],
        "slurm_additional_parameters": {"requeue": True, **extra},
    }


def _import_places() -> list[str]:
    """Where a job finds this package, if it is not installed but lies somewhere."""
    place = Path(harness.__file__).resolve().parent.parent
    return [] if place == Path(sysconfig.get_path("purelib")).resolve() else [str(place)]


def _submit(tasks: Sequence[_Task], folder: Path, parameters: Mapping[str, Any]) -> list[submitit.Job[None]]:
    """Hand tasks to sbatch; an array if they are several.  Every submission has a folder of its own.

    Raises UserError where sbatch refuses.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise disk_error(folder, error) from error
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=TIMEOUTS)
    executor.update_parameters(**parameters)
    try:
        with slurm.submitting(_sbatch_names(executor.parameters)):
            return executor.submit_array(tasks)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(
            f"Slurm refuses: {slurm.last_line(str(error))}",
            "mend the flags or the [slurm] table (`sinfo` shows what there is), then give the same command again",
        ) from error


def _sbatch_names(parameters: Mapping[str, Any]) -> list[str]:
    return [*parameters, *parameters["additional_parameters"]]


@contextmanager
def _queued(jobs: Sequence[Job]) -> Iterator[None]:
    """The jobs' runs count as queued, unless this fails."""
    folders = [of(job.config).folder for job in jobs]
    before = {folder: read_state(folder) for folder in folders}
    for folder in folders:
        note(folder, "queued")
    try:
        yield
    except BaseException:
        for folder, state in before.items():
            now = read_state(folder)
            if now is not None and now.status == "queued":  # nobody has begun it
                write_state(folder, state) if state else (folder / STATE).unlink(missing_ok=True)
        raise


@contextmanager
def _all_or_none() -> Iterator[list[str]]:
    """Numbers of what has been handed to Slurm, which is ended again if the rest cannot be handed over."""
    handed: list[str] = []
    try:
        yield handed
    except BaseException:
        try:
            slurm.end(handed)
        except UserError as error:
            say(f"jobs {', '.join(handed)} go on, though not all could be submitted: {error.problem}")
        raise


def _link_logs(run: Path, handed: "submitit.Job[None]", processes: int) -> None:
    """Slurm names the logs of an array after the job, not after the run: its folder leads to them."""
    logs = run / "logs"
    try:
        logs.mkdir(exist_ok=True)
        for rank in range(processes):
            log = handed.task(rank).paths.stdout if processes > 1 else handed.paths.stdout
            name = f"slurm-{handed.job_id}{f'-rank{rank}' if rank else ''}.log"
            (logs / name).unlink(missing_ok=True)
            (logs / name).symlink_to(os.path.relpath(log, logs.resolve()))
    except OSError as error:
        raise disk_error(logs, error) from error


def _claimed(jobs: Sequence[Job], prefix: str = LOCAL) -> Pool:
    """A pool of this process with these jobs."""
    pool = Pool(Path(jobs[0].config.execution.runs), prefix)
    pool.claim(jobs)
    return pool


def _nothing() -> None:
    """The cluster does the rest."""


def _seen_here(pool_name: str) -> Seen:
    is_alive = pool_is_alive(pool_name)
    return Seen(is_alive, "RUNNING" if is_alive else "the sweep that was to start it has ended")
