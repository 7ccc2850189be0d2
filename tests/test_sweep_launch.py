"""What a sweep hands to its launcher, what it keeps, and what it can end."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness import launch, local_pool
from harness.executing import executed
from harness.job import Job
from harness.launch import Launcher, Rest, Seen
from harness.launch_settings import Asked
from harness.lease import take
from harness.local_pool import Pool
from harness.processes import this_process
from harness.run_state import Attempt, RunState, jobs_of, note, note_job, read_state, write_state
from harness.spec import RunConfig
from harness.sweep_launch import cancel, start
from harness.sweep_store import Sweep, load
from harness.workspace import of
from tests.builders import harness, quick_config

NOW = datetime.now(UTC)


class Noting(Launcher):
    """Takes jobs on and does nothing, but for remembering when it was asked to."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.done = False

    def submit(self, jobs: Sequence[Job]) -> Rest:
        self.jobs += jobs
        return self._rest

    def look(self, names: Sequence[str]) -> Mapping[str, Seen]:
        raise NotImplementedError

    def cancel(self, names: Sequence[str]) -> None:
        raise NotImplementedError

    def _rest(self) -> None:
        self.done = True


def sweep_of(*configs: RunConfig) -> Sweep:
    return Sweep(name="mine", begun=NOW, command=(), launch=Asked(), runs=configs)


def running(config: RunConfig, job: str, **worker: str) -> None:
    """A run at which a process is at work, which gives signs of life."""
    take(of(config).folder, job)
    note_job(of(config).folder, job)
    attempt = Attempt(job=job, restart=0, kept=(0, 0), started=NOW)
    identity = this_process().model_copy(update=worker)
    write_state(of(config).folder, RunState(status="running", worker=identity, updated=NOW, attempts=(attempt,)))


def status_of(config: RunConfig) -> str:
    state = read_state(of(config).folder)
    assert state is not None
    return state.status


def test_of_what_is_trained_only_the_evaluation_is_left(tmp_path: Path) -> None:
    trained, new = (quick_config(tmp_path, seed=seed) for seed in (0, 1))
    note(of(trained).folder, "trained")
    launcher = Noting()
    start(sweep_of(trained, new), launcher, tmp_path / "runs")
    assert [(job.config.seed, job.part) for job in launcher.jobs] == [(0, "evaluate"), (1, "all")]
    assert launcher.done


def test_where_nothing_is_lacking_no_launcher_is_troubled(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    running(config, "")
    launcher = Noting()
    assert start(sweep_of(config), launcher, tmp_path / "runs") == []
    assert (launcher.jobs, launcher.done) == ([], False)


def test_who_does_not_end_was_not_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deaf, elsewhere, waiting = (quick_config(tmp_path, seed=seed) for seed in range(3))
    pool = Pool(tmp_path / "runs")
    pool.claim([Job(config=waiting)])
    running(deaf, pool.name)
    running(elsewhere, pool.name, host="elsewhere")
    monkeypatch.setattr(local_pool, "_signal", lambda *_: None)
    monkeypatch.setattr(local_pool, "PATIENCE", 0.3)
    assert [known.run_id for known in cancel(sweep_of(deaf, elsewhere, waiting))] == [waiting.run_id]
    assert [status_of(config) for config in (deaf, elsewhere, waiting)] == ["running", "running", "cancelled"]
    said = capsys.readouterr().err
    assert f"{deaf.run_id}: process" in said
    assert "does not end" in said
    assert "cancel it there" in said


def test_a_job_that_hangs_can_be_cancelled_and_nothing_is_begun_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick_config(tmp_path)
    running(config, "slurm:7", host="elsewhere")
    monkeypatch.setattr("harness.lease.EXPIRES_AFTER", -1.0)
    monkeypatch.setattr("harness.locks.take", lambda folder: take(folder / "other"))
    ended: list[str] = []
    monkeypatch.setattr(launch, "look", lambda names: {name: Seen(alive=True, word="RUNNING") for name in names})
    monkeypatch.setattr(launch, "cancel", ended.extend)
    launcher = Noting()
    assert start(sweep_of(config), launcher, tmp_path / "runs") == []
    assert [known.status for known in cancel(sweep_of(config))] == ["lost"]
    assert ended == ["slurm:7"]


def test_a_sweep_keeps_what_was_asked_and_nothing_of_the_machine_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    slurm = ("--launcher", "slurm", "--time", "5")
    for name, words, threads in (("open", (), 0), ("said", ("--threads", "3"), 3)):
        said = harness("sweep", "--backbone", "sit", "--name", name, *words, *slurm, cwd=tmp_path)
        assert "there is no Slurm here" in said.err
        kept = load(tmp_path / "runs", name)
        assert kept.launch == Asked(launcher="slurm", slurm={"time": 5})
        [config] = kept.runs
        assert config.execution.threads == threads
        assert config == executed(config, runs=str(tmp_path / "runs"), results=str(tmp_path / "results"))


def test_a_run_that_waits_is_named_by_a_pool_that_others_can_ask(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    pool = Pool(tmp_path / "runs")
    pool.claim([Job(config=config)])
    assert jobs_of(of(config).folder) == [pool.name]
    launcher = Noting()
    assert start(sweep_of(config), launcher, tmp_path / "runs") == []
    with pool.working():
        pass
    assert [known.status for known in start(sweep_of(config), launcher, tmp_path / "runs")] == ["failed"]
