"""What `sweep status` makes of records, states, leases and what launchers say: one promise for each status."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.lease import EXPIRES_AFTER, RENEWED_EVERY, Lease, take
from harness.processes import ProcessIdentity, this_process
from harness.resolve import Request, resolve
from harness.run_state import Attempt, RunState, Status, note, note_job, write_state
from harness.spec import Execution, RunConfig
from harness.sweep_status import Known, SeenJob, counts, statuses
from harness.sweep_table import by_interest, in_all, plan, table
from harness.sweep_watch import SparingLook, fitting

NOW = datetime.now(UTC)
GONE = this_process().model_copy(update={"started": "before"})
ELSEWHERE = this_process().model_copy(update={"host": "elsewhere"})
JOB = "slurm:7_1"


@dataclass(frozen=True)
class Seen:
    """What a launcher says of a job."""

    alive: bool
    word: str


class Launchers:
    """All launchers, knowing what they are told; they remember what they were asked."""

    def __init__(self, **seen: Seen) -> None:
        self._seen = seen
        self.asked: list[list[str]] = []

    def __call__(self, names: Sequence[str]) -> Mapping[str, SeenJob]:
        self.asked.append(list(names))
        return {name: self._seen["slurm" if name.startswith("slurm") else "local"] for name in names}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return config_of(tmp_path, 0)


def config_of(place: Path, seed: int) -> RunConfig:
    execution = Execution(runs=str(place / "runs"), results=str(place / "results"))
    return resolve(Request("sit", "dsr", seed=seed, execution=execution))


def folder_of(config: RunConfig) -> Path:
    folder = Path(config.execution.runs) / config.run_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def record(config: RunConfig, status: str, day: int = 1) -> None:
    place = Path(config.execution.results) / "measured" / "digits" / "sit"
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema_version": 2, "run_id": config.run_id, "status": status}, indent=1)
    (place / f"2026110{day}T000000000000Z-{config.run_id}.json").write_text(text)


def running(config: RunConfig, worker: ProcessIdentity, job: str = JOB) -> Lease:
    """A run that says that it is running, by a worker who holds its folder."""
    folder = folder_of(config)
    lease = take(folder, job)
    owner = json.loads(lease.path.read_text()) | {"process": worker.model_dump()}
    lease.path.write_text(json.dumps(owner))
    attempt = Attempt(job=job, restart=0, kept=(0, 0), started=NOW)
    write_state(
        folder,
        RunState(status="running", phase="training", done=3, total=20, worker=worker, updated=NOW, attempts=(attempt,)),
    )
    return lease


def silent(config: RunConfig, worker: ProcessIdentity, job: str = JOB, seconds: float = EXPIRES_AFTER + 5) -> None:
    """A run whose worker's last sign of life is too long ago."""
    lease = running(config, worker, job)
    then = time.time() - seconds
    os.utime(lease.path, (then, then))


def known(config: RunConfig, seen: Seen | None = None) -> Known:
    launchers = Launchers(slurm=seen, local=seen) if seen else Launchers()
    [found] = statuses([config], launchers)
    return found


def test_a_run_without_a_trace_is_missing(config: RunConfig) -> None:
    assert known(config).status == "missing"
    folder_of(config)
    found = known(config)
    assert (found.status, found.is_in_hand, found.is_over) == ("missing", False, False)


@pytest.mark.parametrize("status", ["finished", "diverged"])
def test_a_record_says_how_it_ended_whatever_the_state_says(config: RunConfig, status: str) -> None:
    record(config, "diverged" if status == "finished" else "finished", day=1)
    record(config, status, day=2)
    silent(config, GONE)
    found = known(config)
    assert (found.status, found.is_over) == (status, True)


def test_a_run_whose_record_was_taken_away_is_missing(config: RunConfig) -> None:
    note(folder_of(config), "finished")
    found = known(config)
    assert found.status == "missing"
    assert "its record is not in" in found.reason


def test_who_gives_signs_of_life_is_running_and_nobody_is_asked(config: RunConfig) -> None:
    running(config, this_process())
    launchers = Launchers()
    [found] = statuses([config], launchers)
    assert (found.status, found.phase, found.step, found.total, found.job) == ("running", "training", 3, 20, JOB)
    assert found.is_in_hand
    assert launchers.asked == []


def test_a_process_that_is_gone_has_failed(config: RunConfig) -> None:
    running(config, GONE, job="")
    found = known(config)
    assert (found.status, found.reason) == ("failed", "its process ended without a word (killed?)")


def test_a_process_elsewhere_that_is_silent_is_lost(config: RunConfig) -> None:
    silent(config, ELSEWHERE, job="")
    found = known(config)
    assert found.status == "lost"
    assert found.reason.startswith("no sign of life for 9")
    assert not found.is_in_hand


@pytest.mark.parametrize(
    ("seen", "status", "reason"),
    [
        (Seen(alive=False, word="FAILED 0:9"), "failed", "killed: FAILED 0:9"),
        (Seen(alive=False, word="OUT_OF_MEMORY"), "failed", "killed: OUT_OF_MEMORY"),
        (Seen(alive=False, word="CANCELLED by 0"), "cancelled", "CANCELLED by 0"),
        (Seen(alive=True, word="RUNNING"), "lost", "no sign of life for 95 s: RUNNING; `sweep cancel` ends it"),
        (Seen(alive=True, word="PENDING"), "queued", ""),
    ],
)
def test_of_a_silent_job_the_scheduler_has_the_word(config: RunConfig, seen: Seen, status: Status, reason: str) -> None:
    silent(config, ELSEWHERE)
    found = known(config, seen)
    assert (found.status, found.reason.replace("96 s", "95 s")) == (status, reason)
    assert found.is_in_hand == seen.alive, "what hangs has to be cancelled before another may begin"


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        (Seen(alive=True, word="RUNNING"), "running"),
        (Seen(alive=False, word="CANCELLED by 0"), "cancelled"),
        (Seen(alive=False, word="NODE_FAIL 1:0"), "failed"),
        (Seen(alive=True, word="PENDING"), "queued"),
    ],
)
def test_a_scheduler_is_asked_as_soon_as_a_sign_of_life_is_late(config: RunConfig, seen: Seen, status: Status) -> None:
    silent(config, ELSEWHERE, seconds=2 * RENEWED_EVERY + 5)
    assert known(config, seen).status == status


def test_of_a_run_without_a_scheduler_nobody_is_asked_for_a_late_sign(config: RunConfig) -> None:
    silent(config, ELSEWHERE, job="local:/pools/1", seconds=2 * RENEWED_EVERY + 5)
    assert known(config).status == "running"


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        (Seen(alive=True, word="PENDING"), "queued"),
        (Seen(alive=False, word="CANCELLED by 0"), "cancelled"),
        (Seen(alive=False, word="FAILED 1:0"), "failed"),
    ],
)
def test_what_is_queued_is_so_while_its_job_is_known(config: RunConfig, seen: Seen, status: Status) -> None:
    note(folder_of(config), "queued")
    note_job(folder_of(config), "slurm:3_0")
    note_job(folder_of(config), JOB)
    found = known(config, seen)
    assert (found.status, found.job, found.is_in_hand) == (status, JOB, seen.alive)


def test_what_was_queued_and_never_handed_over_has_failed(config: RunConfig) -> None:
    note(folder_of(config), "queued")
    assert known(config).status == "failed"


def test_a_failed_run_gives_its_reasons_last_line(config: RunConfig) -> None:
    note(folder_of(config), "failed", "Traceback\n  somewhere\nthe disk is full\n")
    assert (known(config).status, known(config).reason) == ("failed", "the disk is full")


def test_a_scheduler_starts_an_interrupted_job_again_and_a_pool_does_not(config: RunConfig) -> None:
    note(folder_of(config), "interrupted")
    note_job(folder_of(config), JOB)
    assert known(config, Seen(alive=True, word="PENDING")).status == "queued"
    assert known(config, Seen(alive=False, word="CANCELLED by 0")).status == "cancelled"
    assert known(config, Seen(alive=False, word="TIMEOUT")).status == "interrupted"
    note_job(folder_of(config), "local:/pools/1")
    assert known(config, Seen(alive=True, word="")).status == "interrupted"


def test_a_trained_run_is_in_hand_while_its_evaluation_waits(config: RunConfig) -> None:
    note(folder_of(config), "trained")
    note_job(folder_of(config), JOB)
    waiting, given_up = known(config, Seen(alive=True, word="PENDING")), known(config, Seen(alive=False, word="FAILED"))
    assert [waiting.status, given_up.status] == ["trained", "trained"]
    assert [waiting.is_in_hand, given_up.is_in_hand] == [True, False]


def test_launchers_are_asked_once_about_all(tmp_path: Path) -> None:
    configs = [config_of(tmp_path, seed) for seed in range(4)]
    for number, config in enumerate(configs[:3]):
        note(folder_of(config), "queued")
        note_job(folder_of(config), f"slurm:7_{number}")
    launchers = Launchers(slurm=Seen(alive=True, word="RUNNING"))
    found = statuses(configs, launchers)
    assert launchers.asked == [["slurm:7_0", "slurm:7_1", "slurm:7_2"]]
    assert counts(found) == {"queued": 3, "missing": 1}
    assert in_all(found) == "4 runs: 3 queued, 1 missing"


def test_tables_show_each_run_and_what_is_done_about_it(tmp_path: Path) -> None:
    configs = [config_of(tmp_path, seed) for seed in range(4)]
    record(configs[0], "finished")
    running(configs[1], this_process())
    note(folder_of(configs[2]), "failed", "the disk is full")
    found = statuses(configs, Launchers())
    shown = table(found, found).splitlines()
    assert "training 3/20" in shown[2]
    assert shown[3].endswith("the disk is full")
    planned = plan(found, [None] * 3).splitlines()[1:]
    states = ["exists already", "running", "failed before, will start", "will start"]
    assert [line.rstrip().endswith(state) for line, state in zip(planned, states, strict=True)] == [True] * 4
    assert [each.status for each in by_interest(found)] == ["running", "failed", "missing", "finished"]


def test_a_terminal_shows_as_many_runs_as_it_has_room_for_what_moves_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "9")
    monkeypatch.setenv("COLUMNS", "40")
    configs = [config_of(tmp_path, seed) for seed in range(12)]
    running(configs[11], this_process())
    lines = fitting(statuses(configs, Launchers())).splitlines()
    assert len(lines) == 7
    assert lines[1].startswith(configs[11].run_id)
    assert lines[-1] == "... 7 more"
    assert max(map(len, lines)) <= 40


def test_who_watches_asks_a_scheduler_now_and_then_and_a_pool_each_time() -> None:
    launchers = Launchers(slurm=Seen(alive=False, word="FAILED"), local=Seen(alive=True, word="RUNNING"))
    look = SparingLook(launchers)
    for _ in range(2):
        seen = look([JOB, "local:/pools/1"])
        assert (seen[JOB].word, seen["local:/pools/1"].word) == ("FAILED", "RUNNING")
    assert look(["slurm:8"])["slurm:8"].alive, "of this one nothing is known yet"
    assert launchers.asked == [[JOB], ["local:/pools/1"], ["local:/pools/1"]]


def test_a_scheduler_that_does_not_answer_is_spoken_of_once_and_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    answers: list[Seen | None] = [Seen(alive=True, word="RUNNING"), None, None, Seen(alive=False, word="FAILED"), None]

    def launchers(names: Sequence[str]) -> Mapping[str, SeenJob]:
        answer = answers.pop(0)
        if answer is None:
            raise UserError("Slurm does not answer", "try again later")
        return dict.fromkeys(names, answer)

    look = SparingLook(launchers, seconds_between=0)
    assert [look([JOB])[JOB].word for _ in range(4)] == ["RUNNING", "RUNNING", "RUNNING", "FAILED"]
    assert capsys.readouterr().err == "Slurm does not answer; watching goes on\n"
    assert look([JOB])[JOB].word == "FAILED"
    assert capsys.readouterr().err == "Slurm does not answer; watching goes on\n"
