"""Where a campaign's runs are, and what all of its scenarios do."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness import workspace
from tests.faults.checker import faults_of_results, faults_of_run, leftovers
from tests.faults.commands import Command
from tests.faults.figures import Figures
from tests.faults.trials import Trial

AT_ONCE = 2

Item = TypeVar("Item")


@dataclass(frozen=True)
class Campaign:
    """A folder that it may fill.  What a run gives undisturbed is made there once."""

    place: Path

    def scene(self, scenario: str) -> "Scene":
        """A scenario, in a room of its own."""
        return Scene(self, self.place / scenario.replace(" ", "-"), Figures(scenario))

    def undisturbed(self, trial: Trial) -> Path:
        """The folder of the run as it ends when nothing happens to it."""
        room = self.place / "undisturbed"
        space = workspace.of(trial.config(room))
        if not space.record.exists():
            command = Command(trial, room)
            assert command.wait() == 0, command.tail()
        return space.folder


@dataclass(frozen=True)
class Scene:
    """One scenario of a campaign: the room below which its results and runs are, and what it counts."""

    campaign: Campaign
    room: Path
    figures: Figures

    def start(self, trial: Trial, *, is_fresh: bool = False) -> Command:
        """A process that makes a run, or goes on with it."""
        self.figures.starts += 1
        return Command(trial, self.room, is_fresh=is_fresh)

    def finish(self, trial: Trial) -> Command:
        """Start the run a last time: it must end well, with one record, and the same bytes."""
        command = self.start(trial)
        self.require_finished(trial, command)
        return command

    def require_finished(self, trial: Trial, command: Command) -> None:
        """It ends well, with one record, and the same bytes as the undisturbed run."""
        code = command.wait()
        if code != 0:
            self.figures.fault(f"{trial} ended with {code}: {command.tail()}")
        if len(command.records()) != 1:
            self.figures.fault(f"{trial} has {len(command.records())} records")
        self.figures.faults += faults_of_run(command.space.folder, self.campaign.undisturbed(trial))

    def conclude(self, trials: Sequence[Trial]) -> None:
        """Each run has one record, and the database has each of them."""
        results = self.room / "results"
        self.figures.expected = len(trials)
        self.figures.found, faults = faults_of_results(results, [trial.config(self.room).run_id for trial in trials])
        self.figures.faults += faults
        self.figures.details["files"] = Counter({"half-written ones among the results": len(leftovers(results))})

    def part(self) -> "Scene":
        """A part of it that may be played beside others, and counts by itself."""
        return Scene(self.campaign, self.room, Figures(self.figures.scenario))


def side_by_side(work: Callable[[Item], Figures], items: Iterable[Item], into: Figures) -> None:
    """Do the same with all items, two at a time, and add up what they count."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for figures in pool.map(work, items):
            into.add(figures)
