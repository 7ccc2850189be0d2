"""Scenarios: the disk is full, or can no longer be written, at any moment."""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from harness import database, store
from harness.errors import UserError
from harness.workspace import Workspace
from tests.builders import quick_config
from tests.faults.campaign import Campaign, Scene
from tests.faults.checker import faults_of_results
from tests.faults.commands import POLLED_EVERY, Command
from tests.faults.figures import Figures
from tests.faults.trials import Trial
from tests.test_store import make_record

SIZE = "24m"
BLOCK = bytes(4096)
BAD_INPUT = 2
RECORDS, MOST_ROOM = 20, 3_000_000
NO_ROOT = "mounting a small disk needs root"
MOMENTS = {"preparing": 0.05, "training": 0.5, "saving": 0.3, "sampling": 0.2, "judging": 0.2}


def fill(campaign: Campaign, rng: random.Random, trials: int) -> Figures:
    """Fill the disk under runs and results; with room again, the same command ends with the same bytes."""
    whole = campaign.scene("full disk")
    scene = Scene(campaign, whole.room / "disk", whole.figures)
    with scene.figures.timed(), _mounted(scene.room) as is_mounted:
        if not is_mounted:
            scene.figures.skipped = NO_ROOT
            return scene.figures
        made = [Trial(rng.choice(("sit", "jit")), rng.choice(("none", "dsr")), seed=index) for index in range(trials)]
        for index, trial in enumerate(made):
            phase = list(MOMENTS)[index % len(MOMENTS)]
            _run_out_of_space(scene, trial, phase, rng.uniform(0, MOMENTS[phase]))
        scene.conclude(made)
    return scene.figures


def forbid(campaign: Campaign, rng: random.Random, trials: int) -> Figures:
    """Make the results read-only in mid-run; when they can be written again, the record comes without training."""
    scene = campaign.scene("read-only results")
    with scene.figures.timed(), _mounted(scene.room / "results") as is_mounted:
        if not is_mounted:
            scene.figures.skipped = NO_ROOT
            return scene.figures
        made = [Trial("sit", rng.choice(("none", "denoiser")), seed=index) for index in range(trials)]
        for trial in made:
            _lose_permission(scene, trial, rng.uniform(0, MOMENTS["training"]))
        scene.conclude(made)
    return scene.figures


def squeeze(campaign: Campaign, rng: random.Random, rebuilds: int) -> Figures:
    """Rebuild the database in too little room: it is the old one or the new one, and whoever asked is told."""
    scene = campaign.scene("no room to rebuild")
    figures = scene.figures
    with figures.timed(), _mounted(scene.room) as is_mounted:
        if not is_mounted:
            figures.skipped = NO_ROOT
            return figures
        results, config = scene.room / "results", quick_config(scene.room)
        made = [config.model_copy(update={"seed": seed}) for seed in range(RECORDS)]
        for each in made:
            store.append(results, make_record(each), None)
        database.rebuild(results)
        for _ in range(rebuilds):
            _rebuild_with(rng.randrange(MOST_ROOM), scene)
        figures.expected = len(made)
        figures.found, faults = faults_of_results(results, [each.run_id for each in made])
        figures.faults += faults
    return figures


def _rebuild_with(room: int, scene: Scene) -> None:
    """Rebuild with so many bytes free on the disk; the database then opens, and has every record."""
    ballast, results = scene.room / "ballast", scene.room / "results"
    disk = os.statvfs(scene.room)
    ballast.write_bytes(bytes(disk.f_bavail * disk.f_bsize - room))
    try:
        database.rebuild(results)
        scene.figures.count("rebuilds", "done")
    except UserError:
        scene.figures.count("rebuilds", "refused with one sentence")
    except duckdb.Error as error:
        scene.figures.fault(f"no sentence, but {type(error).__name__}, with {room} bytes free: {error}")
    scene.figures.openings += 1
    found, faults = faults_of_results(results, [stored.record.run_id for stored in store.read_all(results)[0]])
    scene.figures.faults += faults
    assert found == RECORDS, "no rebuild touches a record"
    ballast.unlink()


def _run_out_of_space(scene: Scene, trial: Trial, phase: str, delay: float) -> None:
    scene.figures.runs += 1
    command = scene.start(trial)
    command.reach(phase)
    time.sleep(delay)
    if phase == "saving":
        command.reach("saving")
    scene.figures.count("full in", command.phase())
    ballast = scene.room / "ballast"
    while command.poll() is None:  # what the run frees is taken too
        _fill(ballast)
        time.sleep(POLLED_EVERY)
    _require_refusal(scene, command, "No space left")
    ballast.unlink(missing_ok=True)
    scene.finish(trial)


def _fill(ballast: Path) -> None:
    """Leave no byte."""
    with ballast.open("ab", buffering=0) as out:
        for size in (256 * len(BLOCK), len(BLOCK)):
            try:
                while out.write(bytes(size)):
                    pass
            except OSError:
                continue


def _lose_permission(scene: Scene, trial: Trial, delay: float) -> None:
    scene.figures.runs += 1
    command = scene.start(trial)
    command.reach("training")
    time.sleep(delay)
    scene.figures.count("read-only in", command.phase())
    _remount("ro", scene.room / "results")
    _require_refusal(scene, command, "ead-only")
    before, kept = _checkpoints(command.space), command.space.record.read_bytes()
    _require_refusal(scene, scene.start(trial), "ead-only")
    _remount("rw", scene.room / "results")
    scene.finish(trial)
    if _checkpoints(command.space) != before:
        scene.figures.fault(f"{trial} was trained anew")
    if [path.read_bytes() for path in command.records()] != [kept]:
        scene.figures.fault(f"{trial} published another record than the one that it had kept")


def _require_refusal(scene: Scene, command: Command, reason: str) -> None:
    """It ends with one sentence, and what to do; or has ended well before."""
    code, said = command.wait(), command.said()
    scene.figures.count("ends", f"exit code {code}")
    if code == 0:
        return
    if code != BAD_INPUT or reason not in said or "Traceback" in said or said.count("error: ") != 1:
        scene.figures.fault(f"{command.config.run_id} ended with {code} where it could not write: {command.tail()}")


def _checkpoints(space: Workspace) -> dict[str, int]:
    """The checkpoints, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in space.checkpoints.iterdir()}


@contextmanager
def _mounted(folder: Path) -> Iterator[bool]:
    """A small file system of its own; False where this user may mount none."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _remount(mode: str, folder: Path) -> None:
    """Refused while a file is open for writing, as for a moment it may be."""
    mount = ["mount", "-o", f"remount,{mode}", str(folder)]
    for _ in range(500):
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{folder} could not be remounted {mode}")
