"""Whoever looks into a run's folder sees how far it is, and how it ended."""

import errno
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness import files, heartbeat
from harness.errors import UserError
from harness.files import sweep_parts
from harness.heartbeat import Heartbeat
from harness.lease import Taken, holder, take
from harness.progress import Progress
from harness.run_state import Attempt, RunState, jobs_of, note, note_job, read_state, write_state

ATTEMPT = Attempt(job="slurm:5_2", restart=0, kept=(0, 0), started=datetime(2026, 1, 1, tzinfo=UTC))


def _heart(folder: Path) -> Heartbeat:
    return Heartbeat(take(folder), ATTEMPT)


def _state(folder: Path) -> RunState:
    state = read_state(folder)
    assert state is not None
    return state


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "WRITTEN_EVERY", 0.05)
    monkeypatch.setattr(heartbeat, "RENEWED_EVERY", 0.05)


def test_the_state_follows_the_progress_bar(tmp_path: Path) -> None:
    with _heart(tmp_path) as heart, Progress("training", 100, 20) as progress:
        assert _state(tmp_path).status == "running"
        progress.advance(5)
        while _state(tmp_path).done != 25:
            time.sleep(0.01)
        assert (_state(tmp_path).phase, _state(tmp_path).total) == ("training", 100)
        heart.ended("finished")
    assert _state(tmp_path).status == "finished"
    assert _state(tmp_path).worker is not None
    assert _state(tmp_path).attempts == (ATTEMPT,)


def test_a_beating_heart_keeps_the_lease(tmp_path: Path) -> None:
    mine = take(tmp_path)
    with Heartbeat(mine, ATTEMPT) as heart:
        os.utime(mine.path, (1e9, 1e9))
        while (found := holder(tmp_path)) is None or not found.is_alive:
            time.sleep(0.01)
        heart.ended("trained")


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (UserError("the disk is full", "free some"), "failed", "the disk is full"),
        (TypeError("no such\nthing"), "failed", "TypeError: no such"),
        (KeyboardInterrupt(), "interrupted", ""),
        (SystemExit(143), "interrupted", ""),
    ],
)
def test_an_error_is_kept_with_its_reason(tmp_path: Path, error: BaseException, status: str, reason: str) -> None:
    with pytest.raises(type(error)), _heart(tmp_path):
        raise error
    assert (_state(tmp_path).status, _state(tmp_path).reason) == (status, reason)


def test_the_reason_of_one_who_is_ended_is_there_before_the_end(tmp_path: Path) -> None:
    with _heart(tmp_path) as heart:
        heart.failed("process 1: the disk is full")
        assert (_state(tmp_path).status, _state(tmp_path).reason) == ("failed", "process 1: the disk is full")


def test_who_was_taken_over_stops_at_the_next_advance_and_writes_no_more(tmp_path: Path) -> None:
    mine = take(tmp_path)

    def loses_its_lease() -> None:
        with Heartbeat(mine, ATTEMPT), Progress("training", 10) as progress:
            (tmp_path / "lease-000000002.json").touch()
            mine.path.unlink()
            note(tmp_path, "running", "the other's")
            for _ in range(500):
                progress.advance(0)
                time.sleep(0.01)

    with pytest.raises(Taken, match="took over"):
        loses_its_lease()
    assert _state(tmp_path).reason == "the other's"


def test_who_stumbles_over_the_new_owner_says_that_it_was_taken_over(tmp_path: Path) -> None:
    mine = take(tmp_path)

    def stumbles() -> None:
        with Heartbeat(mine, ATTEMPT):
            (tmp_path / "lease-000000002.json").touch()
            note(tmp_path, "running", "the other's")
            raise FileNotFoundError("swept away")

    with pytest.raises(Taken, match="took over"):
        stumbles()
    assert _state(tmp_path).reason == "the other's"


def test_a_disk_that_does_not_answer_for_a_while_stops_no_heart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = take(tmp_path)
    stale = [OSError(errno.ESTALE, "Stale file handle") for _ in range(3)]

    def stumbles(*arguments: object) -> None:
        if stale:
            raise stale.pop()
        write_state(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(heartbeat, "write_state", stumbles)
    with Heartbeat(mine, ATTEMPT) as heart:
        while read_state(tmp_path) is None:
            time.sleep(0.01)
        heart.ended("trained")
    assert not stale


def test_attempts_add_up(tmp_path: Path) -> None:
    for _ in range(2):
        mine = take(tmp_path)
        with Heartbeat(mine, ATTEMPT) as heart:
            heart.ended("interrupted")
        mine.give_back()
    note(tmp_path, "queued")
    assert _state(tmp_path).attempts == (ATTEMPT, ATTEMPT)
    assert _state(tmp_path).status == "queued"


def test_jobs_are_listed_in_their_order_and_half_a_line_is_none(tmp_path: Path) -> None:
    assert jobs_of(tmp_path) == []
    note_job(tmp_path, "slurm:1_0")
    note_job(tmp_path, "local:x")
    with (tmp_path / "jobs.jsonl").open("a") as out:
        out.write('{"job": "slu')
    note_job(tmp_path, "slurm:9_0")
    assert jobs_of(tmp_path) == ["slurm:1_0", "local:x", "slurm:9_0"]


def test_a_state_is_written_though_somebody_sweeps_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps = [sweep_parts]

    def swept(path: Path) -> None:
        if sweeps:
            sweeps.pop()(path.parent)

    monkeypatch.setattr(files, "force_to_disk", swept)
    note(tmp_path, "cancelled")
    assert not sweeps
    assert _state(tmp_path).status == "cancelled"


def test_a_damaged_state_is_none(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"status": "run')
    assert read_state(tmp_path) is None
