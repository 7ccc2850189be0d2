"""Where jobs run: what the flags and a user's file come to, and what Slurm is asked for and asked about.

Commands of Slurm are small scripts here that write down how they are called; `test_slurm.py` has a real one.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import submitit

from harness import launch, slurm
from harness.errors import UserError
from harness.executing import executed
from harness.job import Job
from harness.launch import DebugLauncher, LocalLauncher, SlurmLauncher, launcher_of
from harness.launch_settings import (
    Asked,
    LaunchSettings,
    SlurmSettings,
    add_launch_flags,
    asked_by,
    minutes_of,
    settings_of,
)
from harness.launcher_names import DEBUG, LOCAL
from harness.local_pool import Pool
from harness.run_state import jobs_of, note, read_state
from harness.spec import RunConfig
from harness.workspace import of
from tests.builders import quick_config

FakeCommand = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without any user's file above it or at home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCommand:
    """Makes a command on the PATH that runs a shell script after noting its words; gives the file of these notes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, script: str = "") -> Path:
        notes = tmp_path / f"{name}.calls"
        (folder / name).write_text(f'#!/bin/sh\necho "$@" >> {notes}\n{script}\n')
        (folder / name).chmod(0o755)
        return notes

    return make


@pytest.fixture
def cluster(command: FakeCommand, tmp_path: Path) -> Path:
    """A Slurm that takes every job, under numbers from 8 on; gives the file of all submitted scripts."""
    scripts = tmp_path / "scripts"
    command("srun")
    command("scontrol", 'echo "PartitionName=day Default=YES PreemptMode=REQUEUE"')
    command(
        "sbatch",
        f'cat "$1" >> {scripts}; env >> {tmp_path}/environment; echo "job $((7 + $(wc -l < {tmp_path}/sbatch.calls)))"',
    )
    return scripts


def asked(*words: str, before: Asked | None = None) -> Asked:
    parser = argparse.ArgumentParser()
    add_launch_flags(parser)
    return asked_by(parser.parse_args(words), before)


def settings(*words: str) -> LaunchSettings:
    return settings_of(asked(*words))


def on_slurm(*words: str) -> SlurmSettings:
    return settings("--launcher", "slurm", *words).slurm


def two_runs(place: Path) -> list[RunConfig]:
    return [quick_config(place, seed=seed) for seed in (0, 1)]


def jobs(place: Path) -> list[Job]:
    return [Job(config=config) for config in two_runs(place)]


@pytest.mark.parametrize(
    ("time", "minutes"),
    [(90, 90), ("90", 90), ("0:30", 1), ("1:30:00", 90), ("2-12", 3600), ("1-0:30", 1470), ("1-00:00:01", 1441)],
)
def test_times_are_read_as_sbatch_reads_them(time: object, minutes: int) -> None:
    assert minutes_of(time) == minutes


@pytest.mark.parametrize("time", ["", "soon", "0", "0:00:00", "-5", "1h", "1:2:3:4", 2.5, True, None])
def test_what_is_no_time_is_refused(time: object) -> None:
    with pytest.raises(ValueError, match="a time"):
        minutes_of(time)


def test_without_a_word_it_runs_here(place: Path) -> None:
    found = settings()
    assert found.launcher == "local"
    assert isinstance(launcher_of(found), LocalLauncher)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--partition", "day"), "--partition is for Slurm"),
        (("--time", "5", "--sbatch", "exclusive"), "--time, --sbatch are for Slurm"),
        (("--launcher", "debug", "--gpus", "1"), "--gpus is for Slurm"),
        (("--launcher", "slurm", "--workers", "2"), "--workers is for the local launcher"),
    ],
)
def test_what_has_no_effect_is_not_taken_in_silence(place: Path, words: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        settings(*words)


def test_what_a_file_says_of_another_launcher_waits_for_it(place: Path) -> None:
    (place / "dsr-bench.toml").write_text('workers = 3\n[slurm]\npartition = "day"\n')
    assert settings().local.workers == 3
    assert on_slurm().partition == "day"


def test_gpus_are_those_of_each_run_wherever_it_goes(place: Path) -> None:
    assert settings("--gpus", "2").local.gpus == 2
    assert settings("--gpus", "2").slurm.gpus == 0
    assert on_slurm("--gpus", "2").gpus == 2


def test_flags_win_over_what_was_asked_before_and_what_follows_follows_anew(place: Path) -> None:
    before = asked("--launcher", "slurm", "--time", "10", "--partition", "day", "--sbatch", "exclusive")
    (place / "dsr-bench.toml").write_text('launcher = "local"\n[slurm]\npartition = "beside"\n')
    after = settings_of(asked("--time", "20", "--sbatch", "nice=5", before=before))
    assert (after.launcher, after.slurm.partition) == ("slurm", "day")
    assert (after.slurm.time, after.slurm.evaluate_time) == (20, 20)
    assert after.slurm.extra == {"exclusive": True, "nice": "5"}
    named = settings_of(asked("--config", "dsr-bench.toml", before=before))
    assert (named.launcher, named.slurm.partition, named.slurm.time) == ("local", "beside", 10)
    assert settings_of(asked(before=before)) == settings_of(Asked.model_validate_json(before.model_dump_json()))


def test_the_file_beside_one_holds_and_flags_hold_more(place: Path) -> None:
    (place / "dsr-bench.toml").write_text(
        'launcher = "slurm"\n[slurm]\npartition = "day"\ntime = "0-12:00"\nmemory = "32G"\nextra = {exclusive = true}\n'
    )
    found = settings("--partition", "night", "--cpus", "4", "--sbatch", "reservation=mine")
    assert isinstance(launcher_of(found), SlurmLauncher)
    assert (found.slurm.partition, found.slurm.time, found.slurm.memory, found.slurm.cpus) == ("night", 720, "32G", 4)
    assert found.slurm.extra == {"exclusive": True, "reservation": "mine"}


def test_a_file_that_is_named_comes_before_all_others(place: Path) -> None:
    (place / "dsr-bench.toml").write_text('[slurm]\naccount = "beside"\n')
    (place / "other.toml").write_text('[slurm]\nqos = "named"\n')
    found = on_slurm("--config", "other.toml")
    assert (found.account, found.qos) == ("", "named")


def test_the_file_at_home_holds_where_none_lies_beside(place: Path) -> None:
    (place / ".config" / "dsr-bench").mkdir(parents=True)
    (place / ".config" / "dsr-bench" / "config.toml").write_text('[slurm]\naccount = "home"\n')
    assert settings().slurm.account == "home"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[slurm]\npartitoin = "day"', ["own.toml", "partitoin", "partition"]),
        ('laucher = "slurm"', ["own.toml", "laucher", "launcher"]),
        ('launcher = "slrum"', ["own.toml", "launcher", "slurm"]),
        ('[slurm]\ngpus = "many"', ["own.toml", "gpus", "many"]),
        ('[slurm]\ntime = "soon"', ["own.toml", "time", "soon"]),
        ("[slurm]\nnodes = 0", ["own.toml", "nodes"]),
        ("[slurm]\nextra = 3", ["own.toml", "extra"]),
        ("slurm = 3", ["own.toml", "slurm"]),
        ("[slurm", ["own.toml", "TOML"]),
        ("[slurm]\ngpus = 1\nsignal_delay = 50\ntime = 1", ["--signal-delay"]),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong(place: Path, text: str, words: list[str]) -> None:
    (place / "own.toml").write_text(text)
    with pytest.raises(UserError) as error:
        settings("--config", "own.toml")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_file_that_is_not_there_is_named(place: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.toml"):
        settings("--config", "nowhere.toml")


def test_the_warning_fits_into_the_time(place: Path) -> None:
    assert on_slurm("--time", "1").signal_delay == 15
    assert on_slurm("--time", "1:00:00").signal_delay == 90
    with pytest.raises(UserError, match="warning 45 s"):
        on_slurm("--time", "1", "--signal-delay", "45")


def test_several_gpus_train_and_one_evaluates_afterwards(place: Path) -> None:
    many = on_slurm("--gpus", "4", "--nodes", "2", "--time", "60")
    assert (many.processes, many.evaluate, many.evaluate_gpus, many.evaluate_time) == (8, "apart", 1, 60)
    assert on_slurm("--gpus", "1").evaluate == "together"
    assert on_slurm("--gpus", "4", "--evaluate", "together").evaluate == "together"


def test_all_runs_are_one_array_and_know_their_jobs(cluster: Path, tmp_path: Path) -> None:
    asked = SlurmSettings(
        partition="day", gpus=1, cpus=4, memory="8G", array_parallelism=1, extra={"nice": 5, "hold": False}
    )
    SlurmLauncher(asked).submit(jobs(tmp_path))
    script = cluster.read_text()
    assert script.count("#!/bin/bash") == 1
    for flag in ("array=0-1%1", "partition=day", "gpus-per-node=1", "cpus-per-task=4", "mem=8G", "nice=5", "requeue"):
        assert f"#SBATCH --{flag}\n" in script
    assert "hold" not in script
    assert "--kill-on-bad-exit=1 --cpus-per-task=4" in script
    for number, config in enumerate(two_runs(tmp_path)):
        folder = of(config).folder
        assert jobs_of(folder) == [f"slurm:8_{number}"]
        state = read_state(folder)
        assert state is not None
        assert state.status == "queued"


def test_a_run_alone_is_no_array(cluster: Path, tmp_path: Path) -> None:
    SlurmLauncher(SlurmSettings()).submit(jobs(tmp_path)[:1])
    assert "--array" not in cluster.read_text()
    assert jobs_of(of(two_runs(tmp_path)[0]).folder) == ["slurm:8"]


def test_more_runs_than_an_array_takes_are_several(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "LARGEST_ARRAY", 2)
    SlurmLauncher(SlurmSettings()).submit([Job(config=quick_config(tmp_path, seed=seed)) for seed in range(3)])
    assert cluster.read_text().count("#!/bin/bash") == 2
    assert jobs_of(of(quick_config(tmp_path, seed=2)).folder) == ["slurm:9"]


def test_a_log_is_found_in_the_folder_of_its_run(cluster: Path, tmp_path: Path) -> None:
    SlurmLauncher(SlurmSettings()).submit(jobs(tmp_path))
    log = of(two_runs(tmp_path)[1]).folder / "logs" / "slurm-8_1.log"
    where = log.readlink()
    assert not where.is_absolute(), "a folder of runs may be moved"
    assert where.name == "8_1_0_log.out"
    assert (log.parent / where.parent).resolve().is_dir(), "sbatch makes no folders"
    assert f"--output={(log.parent / where.parent).resolve()}/%A_%a_0_log.out" in cluster.read_text()


def test_evaluation_follows_each_run_that_was_trained(cluster: Path, tmp_path: Path) -> None:
    asked = SlurmSettings(gpus=2, nodes=2, time=60, evaluate="apart", evaluate_gpus=1, evaluate_time=30)
    SlurmLauncher(asked).submit(jobs(tmp_path))
    train, evaluate = cluster.read_text().split("#!/bin/bash")[1:]
    assert "dependency" not in train
    assert all(
        f"#SBATCH --{flag}\n" in train for flag in ("gpus-per-node=2", "nodes=2", "ntasks-per-node=2", "time=60")
    )
    assert all(
        f"#SBATCH --{flag}\n" in evaluate for flag in ("gpus-per-node=1", "nodes=1", "ntasks-per-node=1", "time=30")
    )
    assert "#SBATCH --dependency=aftercorr:8\n#" in evaluate
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in evaluate
    assert jobs_of(of(two_runs(tmp_path)[1]).folder) == ["slurm:8_1", "slurm:9_1"]


def test_a_run_that_is_trained_is_only_evaluated(cluster: Path, tmp_path: Path) -> None:
    asked = SlurmSettings(gpus=2, evaluate="apart", evaluate_gpus=1)
    SlurmLauncher(asked).submit([Job(config=two_runs(tmp_path)[0], part="evaluate")])
    assert "gpus-per-node=1\n" in cluster.read_text()
    assert "dependency" not in cluster.read_text()


def test_a_sweep_within_a_job_submits_as_one_outside(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "99")
    monkeypatch.setenv("SLURM_CONF", "/its/slurm.conf")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    SlurmLauncher(SlurmSettings()).submit(jobs(tmp_path))
    seen = (tmp_path / "environment").read_text().splitlines()
    assert "SLURM_CONF=/its/slurm.conf" in seen
    assert "SBATCH_ACCOUNT=mine" in seen
    assert not any(line.startswith(("SLURM_JOB", "SLURM_MEM", "SBATCH_TIMELIMIT")) for line in seen)


def test_what_slurm_refuses_was_never_queued(cluster: Path, command: FakeCommand, tmp_path: Path) -> None:
    command(
        "sbatch", 'echo "sbatch: error: a\nsbatch: error: Batch job submission failed: no such partition" >&2; exit 1'
    )
    first, second = two_runs(tmp_path)
    note(of(first).folder, "failed", "it was so before")
    with pytest.raises(UserError, match="Slurm refuses: Batch job submission failed: no such partition"):
        SlurmLauncher(SlurmSettings()).submit(jobs(tmp_path))
    state = read_state(of(first).folder)
    assert state is not None
    assert (state.status, state.reason) == ("failed", "it was so before")
    assert read_state(of(second).folder) is None
    assert jobs_of(of(first).folder) == []


def refuse_the_second(command: FakeCommand, place: Path) -> None:
    """A Slurm that takes one array, as job 8, and no other."""
    command("sbatch", f'[ $(wc -l < {place}/sbatch.calls) = 1 ] && echo "job 8" || {{ echo no more >&2; exit 1; }}')


def test_a_refused_evaluation_ends_the_training_that_was_submitted_for_it(
    cluster: Path, command: FakeCommand, tmp_path: Path
) -> None:
    refuse_the_second(command, tmp_path)
    ended = command("scancel")
    with pytest.raises(UserError, match="Slurm refuses: no more"):
        SlurmLauncher(SlurmSettings(gpus=2, evaluate="apart")).submit(jobs(tmp_path))
    assert ended.read_text() == "--quiet 8\n"
    assert [read_state(of(config).folder) for config in two_runs(tmp_path)] == [None, None]


def test_what_could_not_be_ended_is_named(
    cluster: Path, command: FakeCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_the_second(command, tmp_path)
    command("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    with pytest.raises(UserError, match="Slurm refuses"):
        SlurmLauncher(SlurmSettings(gpus=2, evaluate="apart")).submit(jobs(tmp_path))
    assert "jobs 8 go on, though not all could be submitted: scancel: Access denied" in capsys.readouterr().err


def test_a_run_that_has_begun_meanwhile_keeps_its_state(cluster: Path, command: FakeCommand, tmp_path: Path) -> None:
    first, _ = two_runs(tmp_path)
    (of(first).folder).mkdir(parents=True)
    begun = tmp_path / "begun.json"
    note(begun.parent / "example", "running")
    (tmp_path / "example" / "state.json").rename(begun)
    refuse_the_second(command, tmp_path)
    command("scancel", f"cp {begun} {of(first).folder}/state.json")
    with pytest.raises(UserError, match="Slurm refuses"):
        SlurmLauncher(SlurmSettings(gpus=2, evaluate="apart")).submit(jobs(tmp_path))
    state = read_state(of(first).folder)
    assert state is not None
    assert state.status == "running"


def test_where_a_log_cannot_be_linked_nothing_stays_submitted(
    cluster: Path, command: FakeCommand, tmp_path: Path
) -> None:
    ended = command("scancel")
    folder = of(two_runs(tmp_path)[1]).folder
    folder.mkdir(parents=True)
    (folder / "logs").write_text("no folder")
    with pytest.raises(UserError, match="logs"):
        SlurmLauncher(SlurmSettings()).submit(jobs(tmp_path))
    assert ended.read_text() == "--quiet 8\n"
    assert read_state(folder) is None


def test_a_link_to_a_log_of_the_same_name_is_replaced(cluster: Path, tmp_path: Path) -> None:
    log = of(two_runs(tmp_path)[0]).folder / "logs" / "slurm-8.log"
    log.parent.mkdir(parents=True)
    log.symlink_to("nowhere")
    SlurmLauncher(SlurmSettings()).submit(jobs(tmp_path)[:1])
    assert log.readlink().name == "8_0_log.out"


@pytest.mark.parametrize(
    ("asked", "threads"), [((0, 0, 1), 64), ((0, 0, 2), 32), ((3, 0, 1), 3), ((3, 4, 1), 3), ((0, 4, 2), 4)]
)
def test_a_node_gives_the_threads_that_nobody_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[int, int, int], threads: int
) -> None:
    """`asked` are --threads, --cpus and the tasks on the node."""
    typed, cpus, tasks = asked
    here = SimpleNamespace(num_tasks=tasks, num_nodes=1, job_id="8", global_rank=0, local_rank=0)
    done = []
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: here)
    monkeypatch.setattr(
        submitit.helpers, "TorchDistributedEnvironment", lambda: SimpleNamespace(export=lambda **_: None)
    )
    monkeypatch.setattr(launch, "cores", lambda: 64)
    monkeypatch.setattr(launch, "carry_out", lambda job, name, restart: done.append(job))
    launch._Task(Job(config=executed(quick_config(tmp_path), threads=typed)), cpus)()
    assert [job.config.execution.threads for job in done] == [threads]


def test_where_there_is_no_slurm_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch"):
        SlurmLauncher(SlurmSettings()).submit(jobs(tmp_path))
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="no squeue"):
        launch.look(["slurm:1_0"])


def test_a_short_time_and_a_partition_that_cancels_are_spoken_of(
    cluster: Path, command: FakeCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("scontrol", 'echo "PartitionName=spare Default=NO PreemptMode=CANCEL"')
    SlurmLauncher(SlurmSettings(partition="spare", time=5)).submit(jobs(tmp_path))
    said = capsys.readouterr().err
    assert "5 min" in said
    assert "partition spare cancels" in said
    assert "sweep resume" in said
    SlurmLauncher(SlurmSettings()).submit(jobs(tmp_path))
    assert capsys.readouterr().err == "", "spare is not the default"


def test_jobs_are_looked_for_in_the_queue_and_then_among_the_ended(command: FakeCommand) -> None:
    queue = command("squeue", "echo '3_0|RUNNING\n3_1|FAILED\n4|PENDING\n3_2|COMPLETING'")
    accounts = command("sacct", "echo '3_0|FAILED|1:0\n3_1|FAILED|0:9\n3_2|TIMEOUT|0:0\n5|CANCELLED by 0|0:0'")
    seen = launch.look(["slurm:3_0", "slurm:3_1", "slurm:3_2", "slurm:4", "slurm:5", "slurm:6"])
    assert {name: (found.alive, found.word) for name, found in seen.items()} == {
        "slurm:3_0": (True, "RUNNING"),
        "slurm:3_1": (False, "FAILED 0:9"),
        "slurm:3_2": (True, "COMPLETING"),
        "slurm:4": (True, "PENDING"),
        "slurm:5": (False, "CANCELLED by 0"),
        "slurm:6": (False, slurm.UNKNOWN),
    }
    assert [len(notes.read_text().splitlines()) for notes in (queue, accounts)] == [1, 1], "one call for all"


def test_without_accounting_the_queue_has_the_last_word(command: FakeCommand) -> None:
    command("squeue", "echo '3|FAILED'")
    command("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert launch.look(["slurm:3"])["slurm:3"] == launch.Seen(alive=False, word="FAILED")


def test_a_slurm_that_does_not_answer_is_no_slurm_without_jobs(command: FakeCommand) -> None:
    command("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(UserError, match="Unable to contact"):
        launch.look(["slurm:3"])
    command("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    command("sacct", "")
    assert launch.look(["slurm:3"])["slurm:3"].word == slurm.UNKNOWN


def test_all_jobs_are_cancelled_at_once(command: FakeCommand) -> None:
    calls = command("scancel")
    launch.cancel(["slurm:3_0", "slurm:3_1", f"{LOCAL}/runs/sweeps/pools/1"])
    assert calls.read_text() == "--quiet 3_0 3_1\n"
    command("scancel", "echo 'scancel: error: Kill job error on job id 3: Access denied' >&2; exit 1")
    with pytest.raises(UserError, match="Access denied"):
        launch.cancel(["slurm:3"])


def test_every_launcher_is_asked_for_its_own_jobs(tmp_path: Path) -> None:
    names = [Pool(tmp_path).name, f"{LOCAL}{tmp_path}/none", Pool(tmp_path, DEBUG).name, f"{DEBUG}{tmp_path}/none"]
    seen = launch.look(names)
    assert [found.alive for found in seen.values()] == [True, False, True, False]
    assert seen[names[1]].word == "the sweep that was to start it has ended"


def test_the_debug_launcher_works_in_this_process_until_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = jobs(tmp_path)
    done = []

    def carry_out(job: Job, name: str) -> None:
        assert launch.look([name])[name].alive
        done.append((job, name))
        raise UserError("it fails", "see")

    monkeypatch.setattr(launch, "carry_out", carry_out)
    rest = DebugLauncher().submit([first, second])
    assert done == []
    with pytest.raises(UserError, match="it fails"):
        rest()
    [name] = jobs_of(of(first.config).folder)
    assert done == [(first, name)]
    assert not launch.look([name])[name].alive
