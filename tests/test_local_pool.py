"""The pool of processes on one machine, with small programs in place of runs; `test_sweep_local.py` has real ones."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import local_pool, slots
from harness.errors import UserError
from harness.executing import executed
from harness.job import Job
from harness.lease import EXPIRES_AFTER
from harness.local_pool import Pool, _Work, end_work, pool_is_alive
from harness.processes import this_process
from harness.run_state import jobs_of, note, read_state
from harness.slots import Slot, slots_here, visible_gpus
from tests.builders import quick_config
from tests.launch_scenarios import wait_until

SHOW = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ.get('CUDA_VISIBLE_DEVICES'))"
WAIT = "import time; time.sleep(600)"


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    return [Job(config=quick_config(tmp_path, seed=seed)) for seed in range(4)]


def in_place_of_runs(monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    """The first job runs the first of these programs, and so on; the last one is for all that are left."""
    left = list(programs)

    def command(slot: Slot, file: Path, name: str) -> list[str]:
        return [sys.executable, "-c", left.pop(0) if len(left) > 1 else left[0]]

    monkeypatch.setattr(Slot, "command", command)


def run_pool(jobs: Sequence[Job], workers: int, threads: int = 1, gpus: Sequence[str | None] = (None,)) -> Pool:
    """All jobs, by so many workers in turns."""
    pool = Pool(Path(jobs[0].config.execution.runs))
    pool.claim(jobs)
    pool.work([Slot(threads, gpus[number % len(gpus)]) for number in range(workers)])
    return pool


def folder_of(job: Job) -> Path:
    return Path(job.config.execution.runs) / job.config.run_id


def logs_of(job: Job) -> list[str]:
    return [log.read_text().strip() for log in sorted((folder_of(job) / "logs").iterdir())]


def ended(job: Job) -> tuple[str, str]:
    state = read_state(folder_of(job))
    assert state is not None
    return state.status, state.reason


def test_threads_and_gpus_are_shared_out(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_runs(monkeypatch, SHOW)
    run_pool(jobs, 2, 3, ["4", "6,7"])
    assert sorted({log for job in jobs for log in logs_of(job)}) == ["3 4", "3 6,7"]


def test_without_gpus_jobs_see_what_the_pool_sees(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    in_place_of_runs(monkeypatch, SHOW)
    run_pool(jobs[:1], 2)
    assert logs_of(jobs[0]) == ["1"]


def test_a_job_gets_no_more_threads_than_its_share(jobs: list[Job]) -> None:
    asked = Job(config=executed(jobs[0].config, threads=2))
    assert [Slot(threads, None).fitted(asked).config.execution.threads for threads in (1, 8)] == [1, 2]
    left_open = Job(config=executed(jobs[0].config, threads=0))
    assert Slot(8, None).fitted(left_open).config.execution.threads == 8


def test_gpus_and_cores_of_the_machine_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "cores", lambda: 16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,6,7,8")
    assert slots_here(0, 0) == [Slot(3, gpu) for gpu in ("2", "5", "6", "7", "8")]
    assert slots_here(0, 2) == [Slot(4, "2,5"), Slot(4, "6,7")]
    assert slots_here(1, 0) == [Slot(16, "2")]
    assert slots_here(3, 4) == [Slot(1, "2,5,6,7")] * 3
    with pytest.raises(UserError, match="--gpus 6, and there are 5 here"):
        slots_here(0, 6)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots_here(0, 0) == [Slot(4, None)] * 4
    assert slots_here(32, 0) == [Slot(1, None)] * 32


def test_a_tool_that_hangs_is_no_gpu_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(slots, "SECONDS_TO_ANSWER", 0.2)
    assert visible_gpus() == ()
    assert "nvidia-smi does not answer" in capsys.readouterr().err


def test_several_gpus_are_a_process_each(jobs: list[Job], tmp_path: Path) -> None:
    def words(gpus: str | None) -> list[str]:
        return Slot(1, gpus).command(tmp_path, "local:1")[1:-2]

    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "harness.job"]
    assert words("0,1") == several
    assert words("0") == words(None) == ["-m", "harness.job"]
    assert [Slot(1, gpus).fitted(jobs[0]).config.execution.processes for gpus in ("0,1", "0", None)] == [2, 1, 1]


def test_no_more_work_at_once_than_there_are_workers(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = tmp_path / "at-work"
    at_work.mkdir()
    in_place_of_runs(
        monkeypatch,
        "import os, pathlib, time\n"
        f"mine = pathlib.Path({str(at_work)!r}, str(os.getpid())); mine.touch(); time.sleep(0.3)\n"
        "print(len(list(mine.parent.iterdir()))); mine.unlink()",
    )
    run_pool(jobs, 2)
    assert max(int(log) for job in jobs for log in logs_of(job)) <= 2


def test_one_that_fails_stops_no_other_and_its_reason_is_kept(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    in_place_of_runs(monkeypatch, "raise ValueError('no such thing')", killed, "raise SystemExit(9)", SHOW)
    run_pool(jobs, 1)
    assert [ended(job) for job in jobs] == [
        ("failed", "ValueError: no such thing"),
        ("failed", "killed by SIGKILL"),
        ("failed", "ended with exit code 9"),
        ("queued", ""),
    ]
    said = capsys.readouterr().err
    assert "seed 0: failed: ValueError: no such thing" in said
    assert "seed 3: left to another process" in said


def test_what_a_job_says_of_itself_stays(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(jobs[0])
    in_place_of_runs(
        monkeypatch,
        f"from harness.run_state import note; from pathlib import Path; note(Path({str(folder)!r}), 'failed', 'mine')\n"
        "raise SystemExit(2)",
    )
    run_pool(jobs[:1], 1)
    assert ended(jobs[0]) == ("failed", "mine")


def test_what_was_cancelled_is_passed_over(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    second = folder_of(jobs[1])
    in_place_of_runs(
        monkeypatch,
        f"from harness.run_state import note; from pathlib import Path; note(Path({str(second)!r}), 'cancelled')",
        SHOW,
    )
    run_pool(jobs[:3], 1)
    assert ended(jobs[1]) == ("cancelled", "")
    assert not (second / "logs").exists()
    assert (folder_of(jobs[2]) / "logs").exists()


def test_what_is_cancelled_before_it_says_a_word_is_ended(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_runs(monkeypatch, WAIT)

    def cancel() -> None:
        wait_until((folder_of(jobs[0]) / "logs").exists, "a start")
        note(folder_of(jobs[0]), "cancelled")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    run_pool(jobs[:1], 1)
    canceller.join()
    assert ended(jobs[0]) == ("cancelled", "")


def test_a_disk_that_takes_no_notes_stops_no_run_and_kills_none(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fails, the second is asked to end in good order, and the others are not begun."""
    polite = (
        f"import pathlib, signal, time\nhere = pathlib.Path({str(tmp_path)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), (here / 'polite').touch(), exit(0)))\n"
        "(here / 'ready').touch(); time.sleep(600)"
    )
    in_place_of_runs(monkeypatch, "raise SystemExit(9)", polite)
    plain = _Work._look

    def look(pool: _Work) -> None:
        if (tmp_path / "ready").exists() and not pool._children[0].is_asked:
            raise KeyboardInterrupt
        plain(pool)

    def full(*_: object) -> None:
        raise UserError("the disk is full", "free some space")

    def work() -> None:
        pool = Pool(tmp_path / "runs")
        pool.claim(jobs)
        monkeypatch.setattr(local_pool, "note", full)
        pool.work([Slot(1, None)])

    monkeypatch.setattr(_Work, "_look", look)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert (tmp_path / "polite").exists()


def test_an_interrupted_pool_leaves_no_process(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[subprocess.Popen[bytes]] = []
    plain = _Work._look

    def look(pool: _Work) -> None:
        if not children:
            children.extend(child.process for child in pool._children)
            raise KeyboardInterrupt
        plain(pool)

    in_place_of_runs(monkeypatch, WAIT)
    monkeypatch.setattr(_Work, "_look", look)
    with pytest.raises(KeyboardInterrupt):
        run_pool(jobs, 2)
    assert [child.poll() is not None for child in children] == [True, True]
    assert ended(jobs[3]) == ("interrupted", "")


def test_who_does_not_want_to_end_is_killed_when_asked_again(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n{WAIT}"
    children: list[subprocess.Popen[bytes]] = []

    def look(pool: _Work) -> None:
        if not children:
            children.extend(child.process for child in pool._children)
            wait_until(lambda: logs_of(jobs[0]) == ["deaf"], "a deaf process")
        raise KeyboardInterrupt

    in_place_of_runs(monkeypatch, stubborn)
    monkeypatch.setattr(_Work, "_look", look)
    with pytest.raises(KeyboardInterrupt):
        run_pool(jobs[:1], 1)
    assert children[0].wait(timeout=30) == -9


def test_all_that_a_job_has_started_is_killed_with_it(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun's workers are, which are leaders of sessions."""
    deaf = "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    inner = deaf + f"print(os.getpid(), file=open({str(tmp_path / 'inner')!r}, 'w'), flush=True); time.sleep(600)"
    in_place_of_runs(
        monkeypatch,
        f"{deaf}subprocess.Popen([sys.executable, '-c', {inner!r}], start_new_session=True); time.sleep(600)",
    )

    def look(pool: _Work) -> None:
        wait_until(lambda: (tmp_path / "inner").exists() and (tmp_path / "inner").read_text() != "", "an inner process")
        raise KeyboardInterrupt

    monkeypatch.setattr(_Work, "_look", look)
    with pytest.raises(KeyboardInterrupt):
        run_pool(jobs[:1], 1)
    # Nobody may wait for an orphan, which then stays as a zombie: with no command line.
    inner_one = Path("/proc", (tmp_path / "inner").read_text().strip(), "cmdline")
    wait_until(lambda: not inner_one.exists() or inner_one.read_bytes() == b"", "its end")


def test_logs_are_added_and_each_pool_is_named(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_runs(monkeypatch, SHOW)
    pools = [run_pool(jobs[:1], 1) for _ in range(2)]
    assert len(logs_of(jobs[0])) == 2
    assert jobs_of(folder_of(jobs[0])) == [pool.name for pool in pools]


def test_a_pool_lives_from_its_claim_to_its_end(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_runs(monkeypatch, SHOW)
    pool = Pool(Path(jobs[0].config.execution.runs))
    pool.claim(jobs[:1])
    assert pool_is_alive(pool.name)
    pool.work([Slot(1, None)])
    assert not pool_is_alive(pool.name)
    assert not pool_is_alive("local:12-34@host~boot~space"), "a name from before there were signs of life"


@pytest.mark.parametrize("where", ["host", "boot"])
def test_a_pool_elsewhere_is_dead_when_it_is_silent(tmp_path: Path, where: str) -> None:
    """On another machine, or on this one before it was started anew."""
    pool = Pool(tmp_path)
    [lease] = Path(pool.name.removeprefix("local:")).iterdir()
    owner = json.loads(lease.read_text())
    owner["process"][where] = "another"
    lease.write_text(json.dumps(owner))
    assert pool_is_alive(pool.name)
    then = time.time() - EXPIRES_AFTER - 5
    os.utime(lease, (then, then))
    assert not pool_is_alive(pool.name)


def test_a_pool_that_was_killed_is_dead_at_once(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from harness.local_pool import Pool; print(Pool(Path({str(tmp_path)!r})).name)"
    name = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert not pool_is_alive(name)


def test_work_is_ended_and_waited_for() -> None:
    code = f"from harness.processes import this_process; print(this_process().model_dump_json(), flush=True)\n{WAIT}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        identity = type(this_process()).model_validate_json(worker.stdout.readline())
        assert end_work(identity)
        assert end_work(identity), "it has ended already"
        assert not end_work(identity.model_copy(update={"host": "elsewhere"}))
