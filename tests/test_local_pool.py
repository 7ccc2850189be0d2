"""The pool of processes on one machine, with small programs in place of runs; `test_sweep_local.py` has real ones."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.job import Job
from harness.local_pool import _Pool, _process_of, _Slot, end_work, pool_is_alive, pool_name, run_pool
from harness.processes import this_process
from harness.run_state import jobs_of, note, read_state
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

    def command(slot: _Slot, file: Path, name: str) -> list[str]:
        return [sys.executable, "-c", left.pop(0) if len(left) > 1 else left[0]]

    monkeypatch.setattr(_Slot, "command", command)


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
    run_pool(jobs[:1], 2, 1, [])
    assert logs_of(jobs[0]) == ["1"]


def test_a_job_gets_no_more_threads_than_its_share(jobs: list[Job]) -> None:
    execution = jobs[0].config.execution.model_copy(update={"threads": 2})
    asked = Job(config=jobs[0].config.model_copy(update={"execution": execution}))
    assert [_Slot(threads, None).fitted(asked).config.execution.threads for threads in (1, 8)] == [1, 2]


def test_several_gpus_are_a_process_each(jobs: list[Job], tmp_path: Path) -> None:
    def words(gpus: str | None) -> list[str]:
        return _Slot(1, gpus).command(tmp_path, "local:1")[1:-2]

    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "harness.job"]
    assert words("0,1") == several
    assert words("0") == words(None) == ["-m", "harness.job"]
    assert [_Slot(1, gpus).fitted(jobs[0]).config.execution.processes for gpus in ("0,1", "0", None)] == [2, 1, 1]


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
    run_pool(jobs, 2, 1, [])
    assert max(int(log) for job in jobs for log in logs_of(job)) <= 2


def test_one_that_fails_stops_no_other_and_its_reason_is_kept(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    in_place_of_runs(monkeypatch, "raise ValueError('no such thing')", killed, "raise SystemExit(9)", SHOW)
    run_pool(jobs, 1, 1, [])
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
    run_pool(jobs[:1], 1, 1, [])
    assert ended(jobs[0]) == ("failed", "mine")


def test_what_was_cancelled_is_passed_over(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    second = folder_of(jobs[1])
    in_place_of_runs(
        monkeypatch,
        f"from harness.run_state import note; from pathlib import Path; note(Path({str(second)!r}), 'cancelled')",
        SHOW,
    )
    run_pool(jobs[:3], 1, 1, [])
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
    run_pool(jobs[:1], 1, 1, [])
    canceller.join()
    assert ended(jobs[0]) == ("cancelled", "")


def test_an_interrupted_pool_leaves_no_process(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[subprocess.Popen[bytes]] = []
    plain = _Pool._look

    def look(pool: _Pool) -> None:
        if not children:
            children.extend(child.process for child in pool._children)
            raise KeyboardInterrupt
        plain(pool)

    in_place_of_runs(monkeypatch, WAIT)
    monkeypatch.setattr(_Pool, "_look", look)
    with pytest.raises(KeyboardInterrupt):
        run_pool(jobs, 2, 1, [])
    assert [child.poll() is not None for child in children] == [True, True]
    assert ended(jobs[3]) == ("interrupted", "")


def test_who_does_not_want_to_end_is_killed_when_asked_again(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n{WAIT}"
    children: list[subprocess.Popen[bytes]] = []

    def look(pool: _Pool) -> None:
        if not children:
            children.extend(child.process for child in pool._children)
            wait_until(lambda: logs_of(jobs[0]) == ["deaf"], "a deaf process")
        raise KeyboardInterrupt

    in_place_of_runs(monkeypatch, stubborn)
    monkeypatch.setattr(_Pool, "_look", look)
    with pytest.raises(KeyboardInterrupt):
        run_pool(jobs[:1], 1, 1, [])
    assert children[0].wait(timeout=30) == -9


def test_logs_are_added_and_jobs_named_once_for_each_pool(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_runs(monkeypatch, SHOW)
    for _ in range(2):
        run_pool(jobs[:1], 1, 1, [])
    assert len(logs_of(jobs[0])) == 2
    assert jobs_of(folder_of(jobs[0])) == [pool_name()]


def test_a_pool_is_known_by_its_name() -> None:
    code = "from harness.local_pool import pool_name; print(pool_name())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert pool_is_alive(pool_name())
    assert not pool_is_alive(other)
    assert _process_of(pool_name()) == this_process()
    assert pool_is_alive(other.replace("@", "@another-"))


def test_work_is_ended_and_waited_for() -> None:
    code = f"from harness.processes import this_process; print(this_process().model_dump_json(), flush=True)\n{WAIT}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        identity = type(this_process()).model_validate_json(worker.stdout.readline())
        assert end_work(identity)
        assert end_work(identity), "it has ended already"
        assert not end_work(identity.model_copy(update={"host": "elsewhere"}))
