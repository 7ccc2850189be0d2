"""What must hold of a sweep whoever carries out its jobs: told once, for a real Slurm and for the local pool."""

import json
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.lease import holder
from harness.run_state import RunState, jobs_of, read_state
from tests.builders import Said, harness, quick_changes, quick_words

SECONDS_TO_WAIT = 240
AT_REST = {"finished", "diverged", "failed", "cancelled"}
ONE_RUN = ("--registers", "none", "--seeds", "0")
# Long enough to be hit in the middle, at some hundred steps a second.
LONG = "recipe.steps=2000"

Shown = Mapping[str, Any]


class Ground(ABC):
    """A place for runs and results, and a launcher that carries sweeps out there."""

    def __init__(self, place: Path) -> None:
        self.place = place

    @abstractmethod
    def launch(self, *words: str) -> None:
        """Give a `sweep` command; returns when its jobs are in the launcher's hands, not when they are done."""

    @abstractmethod
    def launch_at_once(self, *commands: Sequence[str]) -> None:
        """Give several `sweep` commands at the same moment; returns when all have ended, none of them in failure."""

    @abstractmethod
    def start_again(self, run: Shown) -> None:
        """Stop what works on a run in good order, and have it started again."""

    def begin(self, *words: str, change: str = "") -> None:
        """Start a sweep of quick runs, `words` say which, with one `change` of their fields."""
        self.launch(*quick_grid(*words, change=change))

    def ask(self, *words: str) -> Said:
        """What `sweep status`, `resume` or `cancel` says of the sweep here."""
        return harness("sweep", *words, "--runs", "runs", cwd=self.place)

    def runs(self) -> list[Shown]:
        """What `sweep status` says of each run."""
        said = self.ask("status", "--json")
        assert said.code == 0, said.err
        found: list[Shown] = json.loads(said.out)["runs"]
        return found

    def folder(self, run: Shown) -> Path:
        return self.place / "runs" / str(run["run_id"])

    def state(self, run: Shown) -> RunState:
        state = read_state(self.folder(run))
        assert state is not None
        return state

    def records(self) -> list[Path]:
        return sorted((self.place / "results" / "measured").rglob("*.json"))

    def kill(self, run: Shown) -> None:
        """The worst that can happen to the process that works on a run."""
        worker = self.state(run).worker
        assert worker is not None
        assert worker.is_here()
        os.kill(worker.process, signal.SIGKILL)

    def wait_for_checkpoint(self, run: Shown) -> None:
        """Return in the middle of a run's training."""
        checkpoints = self.folder(run) / "checkpoints"
        wait_until(lambda: any(checkpoints.glob("step-*")), f"a checkpoint of {run['run_id']}")
        assert not (self.folder(run) / "weights.safetensors").exists(), "the training is too short to be hit"

    def wait_for_rest(self) -> list[Shown]:
        """What `sweep status` says when no run is going on, nor going to."""
        wait_until(lambda: all(run["status"] in AT_REST for run in self.runs()), "the end of the sweep")
        return self.runs()

    def the_run(self) -> Shown:
        """The only run of the sweep."""
        [run] = self.runs()
        return run


def quick_grid(*words: str, change: str = "") -> list[str]:
    """The command of a sweep of quick runs."""
    return ["--backbone", "sit", "--threads", "1", *sets(change), *words]


def sets(*changes: str) -> list[str]:
    """Flags that make a run quick."""
    return [word for change in (*quick_changes("sit"), *changes) if change for word in ("--set", change)]


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Return when something is so; a test whose wait is in vain fails."""
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while not is_so():
        assert time.monotonic() < deadline, f"in vain waited for {what}"
        time.sleep(0.3)


def twelve_runs_end_with_twelve_records(ground: Ground) -> None:
    ground.begin("--registers", "none,dsr", "--seeds", "0-5")
    runs = ground.wait_for_rest()
    assert [run["status"] for run in runs] == ["finished"] * 12, runs
    assert len(ground.records()) == 12
    assert {path.stem.rpartition("-")[2] for path in ground.records()} == {run["run_id"] for run in runs}


def a_run_started_again_in_mid_training_ends_as_if_undisturbed(ground: Ground) -> None:
    ground.begin(*ONE_RUN, change=LONG)
    run = ground.the_run()
    ground.wait_for_checkpoint(run)
    ground.start_again(run)
    [after] = ground.wait_for_rest()
    assert after["status"] == "finished", after
    assert [attempt.kept[0] > 0 for attempt in ground.state(run).attempts] == [False, True], "it must have gone on"
    undisturbed = ground.place / "undisturbed"
    undisturbed.mkdir()
    said = harness(*quick_words("sit", "none", LONG), cwd=undisturbed)
    assert said.code == 0, said.err
    weights = undisturbed / "runs" / str(run["run_id"]) / "weights.safetensors"
    assert (ground.folder(run) / "weights.safetensors").read_bytes() == weights.read_bytes()


def a_killed_run_shows_as_failed_and_is_finished_by_resume(ground: Ground) -> None:
    ground.begin(*ONE_RUN, change=LONG)
    run = ground.the_run()
    ground.wait_for_checkpoint(run)
    ground.kill(run)
    [after] = ground.wait_for_rest()
    assert after["status"] == "failed", after
    assert after["reason"], after
    ground.launch("resume")
    wait_until(lambda: ground.the_run()["status"] not in ("failed", "queued"), "a start")
    [after] = ground.wait_for_rest()
    assert after["status"] == "finished", after
    assert ground.state(run).attempts[-1].kept[0] > 0, "it must have gone on"
    assert len(ground.records()) == 1


def what_is_cancelled_ends_and_keeps_what_it_has(ground: Ground) -> None:
    ground.begin("--registers", "none", "--seeds", "0-5", change="recipe.steps=30000")
    first = ground.runs()[0]
    ground.wait_for_checkpoint(first)
    said = ground.ask("cancel")
    assert said.code == 0, said.err
    runs = ground.wait_for_rest()
    assert {run["status"] for run in runs} == {"cancelled"}, runs
    wait_until(lambda: not any(_is_held(ground, run) for run in runs), "the end of all work")
    assert list((ground.folder(first) / "checkpoints").glob("step-*"))
    assert ground.records() == []


def two_sweeps_at_once_make_each_run_once(ground: Ground) -> None:
    grid = ("--registers", "none,dsr", "--seeds", "0-1")
    ground.launch_at_once(*(quick_grid(*grid, "--name", name) for name in ("one", "two")))
    wait_until(lambda: _all_finished(ground, "one") and _all_finished(ground, "two"), "the end of both")
    assert len(ground.records()) == 4
    runs = json.loads(ground.ask("status", "two", "--json").out)["runs"]
    assert [len(ground.state(run).attempts) for run in runs] == [1] * 4
    assert [len(jobs_of(ground.folder(run))) for run in runs] == [1] * 4


def a_mistake_of_the_users_is_told_and_not_tried_again(ground: Ground, run_id: str) -> None:
    (ground.place / "runs" / run_id).mkdir(parents=True)
    (ground.place / "runs" / run_id / "checkpoints").write_text("no folder")
    ground.begin(*ONE_RUN)
    [run] = ground.wait_for_rest()
    assert run["run_id"] == run_id
    assert run["status"] == "failed", run
    assert "checkpoints" in run["reason"]
    assert [attempt.restart for attempt in ground.state(run).attempts] == [0]


def _is_held(ground: Ground, run: Shown) -> bool:
    found = holder(ground.folder(run))
    return found is not None and found.is_alive


def _all_finished(ground: Ground, name: str) -> bool:
    said = ground.ask("status", name, "--json")
    assert said.code == 0, said.err
    return all(run["status"] == "finished" for run in json.loads(said.out)["runs"])
