"""A job does its run wherever it is started, and says in the run's folder how that went."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness import store
from harness.errors import UserError
from harness.job import Job, carry_out
from harness.lease import Owner, take
from harness.processes import this_process
from harness.run_state import Attempt, RunState, note, read_state, write_state
from harness.spec import RunConfig
from harness.workspace import of
from tests.builders import quick_config


def _status(config: RunConfig) -> RunState:
    state = read_state(of(config).folder)
    assert state is not None
    return state


def _records(config: RunConfig) -> int:
    return len(store.read_all(Path(config.execution.results))[0])


def _process(job: Job, place: Path) -> subprocess.Popen[str]:
    file = place / "job.json"
    file.write_text(job.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "harness.job", str(file), "local:test"], stderr=subprocess.PIPE, text=True
    )


def test_a_job_ends_with_a_record_and_says_so(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    note(of(config).folder, "queued")
    carry_out(Job(config=config), "slurm:3_1")
    assert _status(config).status == "finished"
    assert [attempt.job for attempt in _status(config).attempts] == ["slurm:3_1"]
    assert _records(config) == 1
    carry_out(Job(config=config), "slurm:3_1", restart=1)
    assert _records(config) == 1


def test_training_and_evaluation_may_be_two_jobs(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    carry_out(Job(config=config, part="train"), "slurm:1_0")
    assert _status(config).status == "trained"
    assert _records(config) == 0
    before = list(of(config).checkpoints.iterdir())
    carry_out(Job(config=config, part="evaluate"), "slurm:2_0")
    assert _status(config).status == "finished"
    assert _records(config) == 1
    assert list(of(config).checkpoints.iterdir()) == before, "nothing was trained again"


def test_a_job_leaves_a_run_alone_that_another_works_on(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    lease = take(of(config).folder, "slurm:8_0")
    carry_out(Job(config=config), "slurm:9_0")
    assert _records(config) == 0
    lease.give_back()
    carry_out(Job(config=config), "slurm:9_0")
    assert _records(config) == 1


def test_a_cancelled_run_is_not_begun(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    of(config).folder.mkdir(parents=True)
    note(of(config).folder, "cancelled")
    carry_out(Job(config=config), "slurm:1_0")
    assert _status(config).status == "cancelled"
    assert _records(config) == 0


def test_a_mistake_of_the_users_is_kept_as_the_reason(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    of(config).folder.mkdir(parents=True)
    note(of(config).folder, "queued")
    of(config).record.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        carry_out(Job(config=config), "slurm:1_0")
    assert _status(config).status == "failed"
    assert "is damaged" in _status(config).reason


def test_a_job_that_is_started_again_and_gets_nowhere_fails(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    folder = of(config).folder
    now = datetime.now(UTC)

    def started(restart: int, kept: tuple[int, int]) -> None:
        attempt = Attempt(job="slurm:4_0", restart=restart, kept=kept, started=now)
        write_state(folder, RunState(status="interrupted", updated=now, attempts=(attempt,)))

    started(1, (0, 0))
    with pytest.raises(UserError, match="kept nothing new"):
        carry_out(Job(config=config), "slurm:4_0", restart=2)
    assert _status(config).status == "failed"
    started(1, (0, 0))
    carry_out(Job(config=config), "slurm:5_0", restart=2)
    assert _status(config).status == "finished", "another job's failures do not count"


def test_the_first_start_again_is_no_failure(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    now = datetime.now(UTC)
    attempt = Attempt(job="slurm:4_0", restart=0, kept=(0, 0), started=now)
    of(config).folder.mkdir(parents=True)
    write_state(of(config).folder, RunState(status="interrupted", updated=now, attempts=(attempt,)))
    carry_out(Job(config=config), "slurm:4_0", restart=1)
    assert _status(config).status == "finished"


def test_a_started_job_that_is_told_to_end_says_that_it_was_interrupted(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "none", "recipe.steps=100000")
    process = _process(Job(config=config), tmp_path)
    while (state := read_state(of(config).folder)) is None or state.phase != "training":
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert _status(config).status == "interrupted"
    take(of(config).folder)


def test_a_started_job_with_a_mistake_ends_with_two(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    of(config).folder.mkdir(parents=True)
    of(config).record.write_text("{")
    process = _process(Job(config=config), tmp_path)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "error:" in said
    assert "Traceback" not in said


def test_a_run_is_not_taken_from_a_process_that_lives_elsewhere(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    folder = of(config).folder
    folder.mkdir(parents=True)
    owner = Owner(process=this_process().model_copy(update={"host": "another-machine"}))
    path = folder / "lease-000000001.json"
    path.write_text(owner.model_dump_json())
    carry_out(Job(config=config), "slurm:1_0")
    assert _records(config) == 0
    os.utime(path, (1e9, 1e9))
    carry_out(Job(config=config), "slurm:1_0")
    assert _records(config) == 1


def test_what_a_kill_right_after_the_record_left_undone_is_done(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    carry_out(Job(config=config), "slurm:1_0")
    database = Path(config.execution.results) / "leaderboard.duckdb"
    database.unlink()
    note(of(config).folder, "running")
    carry_out(Job(config=config), "slurm:1_0", restart=1)
    assert _status(config).status == "finished"
    assert database.exists()
    assert _records(config) == 1


def test_the_next_owner_removes_what_was_half_written(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    of(config).folder.mkdir(parents=True)
    for name in ("record", "state"):
        (of(config).folder / f".{name}.json.0123.part").write_text("{")
    carry_out(Job(config=config), "slurm:1_0")
    assert not list(of(config).folder.glob(".*.part"))
