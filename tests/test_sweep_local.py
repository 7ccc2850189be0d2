"""Sweeps on this machine: the same scenarios as on a real Slurm, and what only a person at a terminal does."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.run_state import jobs_of
from harness.signals import TERMINATED
from tests import launch_scenarios as scenarios
from tests.builders import harness
from tests.launch_scenarios import LONG, ONE_RUN, SECONDS_TO_WAIT, Ground, Shown, sets, wait_until


class LocalGround(Ground):
    """Sweeps here, each command in a process of its own that stays until its runs have ended."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.commands: list[subprocess.Popen[bytes]] = []

    def launch(self, *words: str) -> None:
        self.start(*words)
        wait_until(lambda: self.commands[-1].poll() is not None or "started" in self.said(), "a start")

    def launch_at_once(self, *commands: Sequence[str]) -> None:
        both = [self.start(*words) for words in commands]
        assert [command.wait(timeout=SECONDS_TO_WAIT) for command in both] == [0] * len(both), self.said()

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Give a command, and do not wait."""
        with (self.place / f"{len(self.commands)}.err").open("wb") as err:
            self.commands.append(
                subprocess.Popen(
                    [sys.executable, "-m", "harness", "sweep", *words],
                    cwd=self.place,
                    stdout=subprocess.DEVNULL,
                    stderr=err,
                )
            )
        return self.commands[-1]

    def said(self) -> str:
        """What the last command has said so far."""
        return (self.place / f"{len(self.commands) - 1}.err").read_text()

    def name(self) -> str:
        """What the sweep here is called."""
        return str(json.loads(self.ask("status", "--json").out)["name"])

    def start_again(self, run: Shown) -> None:
        self.commands[-1].send_signal(signal.SIGINT)
        assert self.commands[-1].wait(timeout=60) == 130
        assert self.the_run()["status"] == "interrupted"
        self.launch("resume")

    def end(self) -> None:
        left = [command for command in self.commands if command.poll() is None]
        for command in left:
            command.terminate()
        # One that has only just begun is not ready yet to end in good order.
        assert {command.wait(timeout=60) for command in left} <= {TERMINATED, -signal.SIGTERM}


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[LocalGround]:
    ground = LocalGround(tmp_path)
    yield ground
    if ground.commands:
        ground.end()


def test_twelve_runs_end_with_twelve_records(ground: LocalGround) -> None:
    scenarios.twelve_runs_end_with_twelve_records(ground)
    assert ground.commands[-1].wait(timeout=60) == 0


def test_an_interrupted_run_ends_as_if_undisturbed(ground: LocalGround) -> None:
    scenarios.a_run_started_again_in_mid_training_ends_as_if_undisturbed(ground)


def test_a_killed_run_shows_as_failed_and_is_finished_by_resume(ground: LocalGround) -> None:
    scenarios.a_killed_run_shows_as_failed_and_is_finished_by_resume(ground)
    assert ground.commands[0].wait(timeout=60) == 1
    assert "failed: killed by SIGKILL" in (ground.place / "0.err").read_text()


def test_what_is_cancelled_ends_and_keeps_what_it_has(ground: LocalGround) -> None:
    scenarios.what_is_cancelled_ends_and_keeps_what_it_has(ground)
    assert ground.commands[-1].wait(timeout=60) == 1
    assert "nothing to cancel" in ground.ask("cancel").out


def test_two_sweeps_at_once_make_each_run_once(ground: LocalGround) -> None:
    scenarios.two_sweeps_at_once_make_each_run_once(ground)
    watched = ground.ask("status", "two", "--watch")
    assert watched.out.splitlines() == ["sweep two, 4 runs: 4 finished"]


def test_a_sweep_can_be_asked_about_from_any_folder(ground: LocalGround) -> None:
    ground.begin(*ONE_RUN)
    assert ground.commands[-1].wait(timeout=SECONDS_TO_WAIT) == 0
    elsewhere = ground.place / "elsewhere"
    elsewhere.mkdir()
    for words, said in ((("status",), "1 run: 1 finished"), (("resume",), "nothing to start")):
        assert said in harness("sweep", *words, "--runs", "../runs", cwd=elsewhere).out
    assert list(elsewhere.iterdir()) == []


def test_a_sweep_can_be_begun_in_the_debugger(ground: LocalGround) -> None:
    said = harness("sweep", *scenarios.quick_grid(*ONE_RUN), "--launcher", "debug", cwd=ground.place)
    assert (said.code, "1 run: 1 finished" in said.out) == (0, True), said.err
    assert len(jobs_of(ground.folder(ground.the_run()))) == 1


def test_runs_on_several_gpus_of_this_machine_are_runs_like_others(
    ground: LocalGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a process for each; the GPUs are names without cards here, and the processes compute on the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    ground.begin(*ONE_RUN, "--gpus", "2", "--device", "cpu")
    assert ground.commands[-1].wait(timeout=SECONDS_TO_WAIT) == 0, ground.said()
    [record] = ground.records()
    assert json.loads(record.read_text())["provenance"]["processes"] == 2


def test_a_mistake_of_the_users_is_told(ground: LocalGround) -> None:
    said = harness("sweep", "--backbone", "sit", "--threads", "1", *ONE_RUN, *sets(), "--dry-run", cwd=ground.place)
    run_id = said.out.splitlines()[1].split()[0]
    scenarios.a_mistake_of_the_users_is_told_and_not_tried_again(ground, run_id)


def test_a_killed_pool_leaves_nothing_that_cannot_be_resumed(ground: LocalGround) -> None:
    """What it was about to do is known to be in nobody's hands; what it had begun goes on, and is not begun again."""
    ground.begin("--registers", "none", "--seeds", "0-1", change=LONG)
    first = ground.runs()[0]
    ground.wait_for_checkpoint(first)
    ground.commands[-1].kill()
    ground.commands[-1].wait(timeout=60)
    assert [run["status"] for run in ground.runs()] == ["running", "failed"]
    assert ground.runs()[1]["reason"] == "the sweep that was to start it has ended"
    ground.launch("resume")
    wait_until(lambda: all(run["status"] == "finished" for run in ground.runs()), "the end of both")
    assert len(ground.state(first).attempts) == 1
    assert len(ground.records()) == 2
