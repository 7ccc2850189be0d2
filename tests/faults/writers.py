"""Scenario: eight processes append records and rebuild the database at once, and some are killed."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb

from harness import database, store, workspace
from harness.spec import RunConfig
from tests.builders import quick_config
from tests.faults.campaign import Campaign
from tests.faults.checker import Fault, faults_of_results, leftovers
from tests.faults.figures import Figures
from tests.faults.trials import Trial
from tests.nursery import NURSERY
from tests.test_store import make_record

WRITERS, READERS = 8, 2
FIRST_SEED, SEEDS_EACH = 1000, 1000


@dataclass(frozen=True, eq=False)
class Writer:
    """Appends records of its own seeds; a line in `acknowledged` says that one is safe."""

    config: RunConfig
    results: Path
    first_seed: int
    count: int
    acknowledged: Path

    def records(self) -> list[RunConfig]:
        """The runs that it records."""
        seeds = range(self.first_seed, self.first_seed + self.count)
        return [self.config.model_copy(update={"seed": seed}) for seed in seeds]

    def write(self) -> None:
        """Append what is not there yet, and rebuild the database after each."""
        for config in self.records():
            if store.find(self.results, config) is None:
                store.append(self.results, make_record(config), None)
            with self.acknowledged.open("a") as out:
                out.write(f"{config.run_id}\n")
            database.rebuild(self.results)

    def told(self) -> set[str]:
        """The runs whose records it was told are safe."""
        return set(self.acknowledged.read_text().split()) if self.acknowledged.exists() else set()


def play(campaign: Campaign, rng: random.Random, records_each: int, kills: int, publishers: int) -> Figures:
    """Let everybody write until they are done; `publishers` are real runs that were interrupted before their end."""
    scene = campaign.scene("writers")
    room, figures = scene.room, scene.figures
    results = room / "results"
    database.rebuild(results)
    config = quick_config(room)
    writers = [
        Writer(config, results, FIRST_SEED + SEEDS_EACH * index, records_each, room / f"acknowledged-{index}")
        for index in range(WRITERS)
    ]
    trials = [Trial("sit", "none", seed=500 + index, steps=6) for index in range(publishers)]
    for trial in trials:
        _leave_unpublished(campaign, trial, room)
    over = NURSERY.Event()
    with figures.timed():
        readers = [_started(read, results, over, _report(room, index)) for index in range(READERS)]
        commands = [scene.start(trial) for trial in trials]
        _let_write(writers, rng, kills, figures)
        for command in commands:
            if command.wait() != 0:
                figures.fault(f"a run could not publish: {command.tail()}")
        over.set()
        for index, reader in enumerate(readers):
            reader.join()
            _count_readings(_report(room, index), reader, figures)
    told = {run for writer in writers for run in writer.told()} | {command.config.run_id for command in commands}
    figures.runs = figures.expected = len(told)
    figures.found, faults = faults_of_results(results, told)
    figures.faults += faults
    figures.details["runs"] = Counter({"appended": len(told) - publishers, "published by `run`": publishers})
    figures.details["files"] = Counter({"half-written ones among the results": len(leftovers(results))})
    return figures


def read(results: Path, over: Event, report: Path) -> None:
    """Open the database again and again; a line says what was wrong, or "ok"."""
    most = 0
    with report.open("w", buffering=1) as out:
        while not over.is_set():
            try:
                with database.snapshot(results / database.DATABASE) as connection:
                    rows, runs = connection.execute("SELECT count(*), count(DISTINCT run_id) FROM runs").fetchall()[0]
            except (duckdb.Error, FileNotFoundError) as error:
                out.write(f"does not open: {str(error).splitlines()[0]}\n")
                continue
            if rows != runs or runs < most:
                out.write(f"{rows} rows of {runs} runs, after {most} runs\n")
            else:
                out.write("ok\n")
            most = max(most, runs)


def _leave_unpublished(campaign: Campaign, trial: Trial, room: Path) -> None:
    """A run that was interrupted after it had its record, and before that was among the results."""
    made = campaign.undisturbed(trial)
    shutil.copytree(made, workspace.of(trial.config(room)).folder)


def _let_write(writers: Sequence[Writer], rng: random.Random, kills: int, figures: Figures) -> None:
    """Start all; kill some, and start them again; until all are done."""
    processes = {writer: _started(writer.write) for writer in writers}
    figures.starts += len(processes)
    left = kills
    while any(process.is_alive() for process in processes.values()):
        time.sleep(rng.uniform(0.02, 0.3))
        alive = [writer for writer, process in processes.items() if process.is_alive()]
        if not left or not alive:
            continue
        left -= 1
        struck = rng.choice(alive)
        _kill(processes[struck])
        figures.count("kills by signal", "SIGKILL")
        processes[struck] = _started(struck.write)
        figures.starts += 1
    for writer, process in processes.items():
        process.join()
        if process.exitcode != 0:
            figures.fault(f"the writer from seed {writer.first_seed} ended with {process.exitcode}")
    if left:
        figures.fault(f"{left} of {kills} kills came too late: give the writers more to write")


def _kill(process: BaseProcess) -> None:
    assert process.pid is not None, "a process without a number"
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def _started(work: Callable[..., None], *arguments: object) -> BaseProcess:
    process = NURSERY.Process(target=work, args=arguments)
    process.start()
    return process


def _report(room: Path, index: int) -> Path:
    return room / f"read-{index}.txt"


def _count_readings(report: Path, reader: BaseProcess, figures: Figures) -> None:
    lines = report.read_text().splitlines()
    figures.openings += len(lines)
    figures.faults += [Fault("unreadable", line) for line in lines if line != "ok"]
    if reader.exitcode != 0 or not lines:
        figures.fault(f"a reader ended with {reader.exitcode} after {len(lines)} openings")
