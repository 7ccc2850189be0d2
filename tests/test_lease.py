"""A folder has one owner at a time, whatever becomes of the last one."""

import errno
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import lease
from harness.errors import UserError
from harness.lease import EXPIRES_AFTER, Owner, Taken, holder, take
from harness.processes import this_process

ELSEWHERE = this_process().model_copy(update={"host": "another-machine"})


def _held_elsewhere(folder: Path, age: float, job: str = "", restart: int = 0) -> Path:
    """A lease that a process on another machine renewed so many seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lease-000000004.json"
    path.write_text(Owner(process=ELSEWHERE, job=job, restart=restart).model_dump_json())
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def _take_and_die(folder: Path) -> None:
    code = f"import os, pathlib, harness.lease as l; l.take(pathlib.Path({str(folder)!r})); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    take(tmp_path / "run", job="slurm:7_1")
    with pytest.raises(Taken, match=rf"process {os.getpid()} on .*slurm:7_1"):
        take(tmp_path / "run")


def test_what_is_given_back_is_free_at_once(tmp_path: Path) -> None:
    take(tmp_path).give_back()
    again = take(tmp_path)
    assert again.is_held()
    assert [path.name for path in tmp_path.iterdir()] == ["lease-000000002.json"]


def test_who_died_here_holds_nothing(tmp_path: Path) -> None:
    _take_and_die(tmp_path)
    found = holder(tmp_path)
    assert found is not None
    assert found.age < EXPIRES_AFTER
    assert not found.is_alive
    assert take(tmp_path).is_held()


def test_who_is_silent_elsewhere_holds_until_the_lease_expires(tmp_path: Path) -> None:
    _held_elsewhere(tmp_path, age=EXPIRES_AFTER - 20)
    with pytest.raises(Taken, match="another-machine, silent for 7"):
        take(tmp_path)
    _held_elsewhere(tmp_path, age=EXPIRES_AFTER + 1)
    assert take(tmp_path).is_held()


def test_a_sleeper_learns_that_it_has_lost_its_lease_and_cannot_give_it_back(tmp_path: Path) -> None:
    sleeper = take(tmp_path)
    _held_elsewhere(tmp_path, age=0)
    assert not sleeper.is_held()
    sleeper.give_back()
    with pytest.raises(Taken):
        take(tmp_path)
    sleeper.path.unlink()
    assert not sleeper.renew()


def test_a_requeued_job_takes_over_from_itself(tmp_path: Path) -> None:
    _held_elsewhere(tmp_path, age=1, job="slurm:12_3", restart=0)
    with pytest.raises(Taken):
        take(tmp_path, job="slurm:12_4", restart=1)
    with pytest.raises(Taken):
        take(tmp_path, job="slurm:12_3", restart=0)
    assert take(tmp_path, job="slurm:12_3", restart=1).is_held()


def test_renewing_keeps_a_lease_alive(tmp_path: Path) -> None:
    mine = take(tmp_path)
    os.utime(mine.path, (1e9, 1e9))
    silent = holder(tmp_path)
    assert silent is not None
    assert not silent.is_alive
    assert mine.renew()
    renewed = holder(tmp_path)
    assert renewed is not None
    assert renewed.is_alive


def test_a_disk_that_refuses_to_take_a_lease_back_lets_it_expire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = take(tmp_path)

    def refuses(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr("os.utime", refuses)
        mine.give_back()
    with pytest.raises(Taken):
        take(tmp_path)


def test_a_lease_without_a_name_holds_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise UserError("the disk is full", "free some space")

    monkeypatch.setattr(lease, "write_bytes", full)
    take(tmp_path)
    with pytest.raises(Taken, match="another process"):
        take(tmp_path)


def _race(folder: Path, start: float, rounds: int) -> None:
    """Take, look whether one is alone, give back; as often as it succeeds."""
    while time.time() < start:
        pass
    won = 0
    while won < rounds:
        try:
            mine = take(folder)
        except Taken:
            continue
        (folder / "inside").open("x").close()
        (folder / "inside").unlink()
        mine.give_back()
        won += 1


def test_of_many_who_race_only_one_is_ever_inside(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = time.time() + 3
    racers = [context.Process(target=_race, args=(tmp_path, start, 25)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
    assert [racer.exitcode for racer in racers] == [0] * 4
