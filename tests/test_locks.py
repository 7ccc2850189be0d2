"""Who works in a folder works there alone, on whatever disk, until the end."""

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from harness import locks
from harness.errors import UserError
from harness.lease import take
from harness.locks import alone_among_machines, alone_in, renewed


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuses(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(UserError, match="its disk knows no locks"), alone_in(tmp_path):
        pytest.fail("it was not alone")


def test_a_lease_needs_no_locks_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fcntl, "flock")
    with alone_among_machines(tmp_path):
        pass
    with alone_among_machines(tmp_path):
        pass


def test_who_comes_second_waits_and_is_told_once_for_whom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []

    def second() -> None:
        with alone_among_machines(tmp_path):
            done.append("second")

    waiting = threading.Thread(target=second)
    with alone_among_machines(tmp_path):
        waiting.start()
        time.sleep(3 * locks.POLLED_EVERY)
        done.append("first")
    waiting.join()
    assert done == ["first", "second"]
    assert capsys.readouterr().err.count("waiting for it") == 1


def test_signs_of_life_are_given_for_as_long_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEWED_EVERY", 0.05)
    lease = take(tmp_path)
    with renewed(lease):
        os.utime(lease.path, (1, 1))
        give_up = time.monotonic() + 30
        while lease.path.stat().st_mtime == 1 and time.monotonic() < give_up:
            time.sleep(0.05)
        assert lease.path.stat().st_mtime > 1
    os.utime(lease.path, (1, 1))
    time.sleep(0.2)
    assert lease.path.stat().st_mtime == 1, "it goes on after the end"
