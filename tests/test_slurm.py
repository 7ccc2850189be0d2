"""Sweeps on a real Slurm: `pytest -m slurm` starts one on this machine, and whoever asks for it gets it or an error."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.job import Job
from harness.launch import SlurmLauncher, cancel, look
from harness.launch_settings import SlurmSettings
from harness.run_state import jobs_of
from harness.slurm import words_of
from harness.workspace import of
from tests import launch_scenarios as scenarios
from tests.builders import harness, quick_config
from tests.launch_scenarios import LONG, ONE_RUN, Ground, Shown, quick_grid, sets, wait_until
from tests.slurm.cluster import FOLDER

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parent.parent
SECONDS_TO_COME_UP, SECONDS_TO_SUBMIT = 400, 120


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """A fresh cluster, to which this process and its children talk, and to no other."""
    _cluster("up", "--fresh")
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(("SLURM_", "SBATCH_"))}
    os.environ["SLURM_CONF"] = f"{FOLDER}/slurm.conf"
    yield
    del os.environ["SLURM_CONF"]
    os.environ.update(before)
    _cluster("down")


def _cluster(*words: str) -> None:
    command = [sys.executable, "-m", "tests.slurm.cluster", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS_TO_COME_UP)
    assert done.returncode == 0, done.stderr


class Cluster(Ground):
    """Sweeps go to Slurm."""

    def launch(self, *words: str) -> None:
        flags = () if words[0] == "resume" else ("--launcher", "slurm", "--results", "results")
        said = harness("sweep", *words, *flags, "--runs", "runs", cwd=self.place)
        assert said.code == 0, said.err

    def launch_at_once(self, *commands: Sequence[str]) -> None:
        words = [sys.executable, "-m", "harness", "sweep", "--launcher", "slurm"]
        both = [subprocess.Popen([*words, *command], cwd=self.place) for command in commands]
        assert [command.wait(timeout=SECONDS_TO_SUBMIT) for command in both] == [0] * len(both)

    def start_again(self, run: Shown) -> None:
        slurm("scontrol", "requeue", self.job(run))

    def job(self, run: Shown) -> str:
        """Slurm's number of what works on a run."""
        return self.state(run).attempts[-1].job.removeprefix("slurm:")


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="session", autouse=True)
def long_run(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A run that is too long for its time, begun before all others: a minute is the shortest time there is."""
    ground = Cluster(tmp_path_factory.mktemp("long"))
    ground.begin(*ONE_RUN, "--time", "1", "--signal-delay", "10", change="recipe.steps=1000000")
    return ground


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Cluster]:
    ground = Cluster(tmp_path)
    yield ground
    cancel([job for folder in (tmp_path / "runs").glob("*/") for job in jobs_of(folder)])


def test_twelve_runs_as_an_array_end_with_twelve_records(ground: Cluster) -> None:
    scenarios.twelve_runs_end_with_twelve_records(ground)
    jobs = [ground.job(run) for run in ground.runs()]
    assert len({job.partition("_")[0] for job in jobs}) == 1, "one array"
    for run in ground.runs():
        assert "successful" in (ground.folder(run) / "logs" / f"slurm-{ground.job(run)}.log").read_text()


def test_what_slurm_refuses_half_of_leaves_nothing_running(ground: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training is taken, and the evaluation after it is not."""
    calls, real = ground.place / "calls", shutil.which("sbatch")
    fickle = ground.place / "bin" / "sbatch"
    fickle.parent.mkdir()
    fickle.write_text(
        f'#!/bin/sh\necho >> {calls}\n[ $(wc -l < {calls}) = 1 ] && exec {real} "$@"\necho full >&2; exit 1\n'
    )
    fickle.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fickle.parent}:{os.environ['PATH']}")
    grid = quick_grid(*ONE_RUN, "--gpus", "2", "--device", "cpu", change=LONG)
    said = harness("sweep", *grid, "--launcher", "slurm", cwd=ground.place)
    assert (said.code, "Slurm refuses: full" in said.err) == (2, True), said.err
    run = ground.the_run()
    assert run["status"] in ("missing", "cancelled"), run
    [name] = jobs_of(ground.folder(run))
    wait_until(lambda: look([name])[name].word.startswith("CANCELLED"), "the end of what was submitted")


def test_a_job_out_of_time_is_requeued_and_goes_on(long_run: Cluster) -> None:
    run = long_run.the_run()
    wait_until(lambda: len(long_run.state(run).attempts) > 1, "a second start")
    assert long_run.ask("cancel").code == 0
    attempts = long_run.state(run).attempts
    assert [(attempt.restart, attempt.kept[0] > 0) for attempt in attempts[:2]] == [(0, False), (1, True)]
    assert "timed-out" in (long_run.folder(run) / "logs" / f"slurm-{long_run.job(run)}.log").read_text()


def test_a_run_requeued_in_mid_training_ends_as_if_undisturbed(ground: Cluster) -> None:
    scenarios.a_run_started_again_in_mid_training_ends_as_if_undisturbed(ground)
    assert [attempt.restart for attempt in ground.state(ground.the_run()).attempts] == [0, 1]


def test_a_killed_job_shows_as_failed_and_is_finished_by_resume(ground: Cluster) -> None:
    scenarios.a_killed_run_shows_as_failed_and_is_finished_by_resume(ground)


def test_what_is_cancelled_ends_and_keeps_what_it_has(ground: Cluster) -> None:
    scenarios.what_is_cancelled_ends_and_keeps_what_it_has(ground)
    assert slurm("squeue", "--noheader", "--states=PENDING,RUNNING") == ""


def test_two_sweeps_at_once_make_each_run_once(ground: Cluster) -> None:
    scenarios.two_sweeps_at_once_make_each_run_once(ground)


def test_two_jobs_for_one_run_make_it_once(ground: Cluster) -> None:
    config = quick_config(ground.place)
    for _ in range(2):
        SlurmLauncher(SlurmSettings()).submit([Job(config=config)])
    names = jobs_of(of(config).folder)
    assert len(set(names)) == 2
    wait_until(lambda: not any(seen.alive for seen in look(names).values()), "the end of both")
    assert [seen.word for seen in look(names).values()] == ["COMPLETED"] * 2
    assert len(ground.records()) == 1


def test_a_mistake_of_the_users_is_told_and_not_requeued(ground: Cluster) -> None:
    run_id = quick_config(ground.place).run_id
    scenarios.a_mistake_of_the_users_is_told_and_not_tried_again(ground, run_id)
    job = ground.job(ground.the_run())
    wait_until(lambda: words_of([job]) == {job: "FAILED 1:0"}, "Slurm to say so, a moment after the run does")


def test_what_gives_way_to_others_is_requeued_and_goes_on(ground: Cluster) -> None:
    ground.begin(*ONE_RUN, "--partition", "low", "--cpus", "4", change=LONG)
    run = ground.the_run()
    ground.wait_for_checkpoint(run)
    slurm("sbatch", "--partition=high", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 2")
    [after] = ground.wait_for_rest()
    assert after["status"] == "finished", after
    assert [(attempt.restart, attempt.kept[0] > 0) for attempt in ground.state(run).attempts] == [(0, False), (1, True)]


def test_several_processes_train_and_another_job_evaluates_what_was_trained(ground: Cluster) -> None:
    """And where the training fails, nothing is evaluated."""
    failing = quick_config(ground.place, seed=1).run_id
    (ground.place / "runs" / failing).mkdir(parents=True)
    (ground.place / "runs" / failing / "checkpoints").write_text("no folder")
    ground.begin("--registers", "none", "--seeds", "0-1", "--gpus", "2", "--device", "cpu", "--cpus", "1")
    done, failed = ground.wait_for_rest()
    assert (done["status"], failed["status"]) == ("finished", "failed"), (done, failed)
    trained, evaluated = (attempt.job.removeprefix("slurm:") for attempt in ground.state(done).attempts)
    assert trained != evaluated
    assert slurm("sacct", "-nXP", "-j", trained, "-o", "ReqTRES").count("gres/gpu=2") == 1
    assert slurm("sacct", "-nXP", "-j", evaluated, "-o", "ReqTRES").count("gres/gpu=1") == 1
    never = evaluated.replace("_0", "_1")
    wait_until(lambda: words_of([never])[never].startswith("CANCELLED"), "the end of what waits in vain")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [(("--partition", "nowhere"), "partition"), (("--memory", "9000G"), "node configuration")],
)
def test_what_slurm_refuses_is_told_in_its_words(ground: Cluster, flags: tuple[str, str], complaint: str) -> None:
    said = harness("sweep", "--backbone", "sit", *ONE_RUN, *sets(), "--launcher", "slurm", *flags, cwd=ground.place)
    assert said.code == 2
    assert "Slurm refuses" in said.err
    assert complaint in said.err
    assert "Traceback" not in said.err
    assert ground.the_run()["status"] == "missing"
