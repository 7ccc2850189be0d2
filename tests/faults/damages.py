"""Scenarios: a checkpoint is damaged on disk; an owner sleeps until another has taken over its run."""

import os
import random
import signal
import time
from pathlib import Path

from tests.faults.campaign import Campaign, Scene
from tests.faults.commands import POLLED_EVERY, Command
from tests.faults.figures import Figures
from tests.faults.trials import Trial

LONG_AGO = 1e9
# A sleeper looks after its lease when it wakes, if it has slept longer than the ten seconds between two looks.
SLEEPS = 11.0
TAKEN = 2
# Long enough to be still in training when it is looked for.
LONG = 80
WAKES_IN = ("the end", "training", "judging")


def damage(campaign: Campaign, rng: random.Random, trials: int) -> Figures:
    """Flip a bit of the newest checkpoint, or cut it short: the run goes on from the one before."""
    scene = campaign.scene("damaged checkpoints")
    with scene.figures.timed():
        made = [Trial("sit", rng.choice(("none", "dsr")), seed=index, steps=LONG) for index in range(trials)]
        for trial in made:
            _damage_one(scene, trial, rng)
        scene.conclude(made)
    return scene.figures


def take_over(campaign: Campaign, rng: random.Random, trials: int) -> Figures:
    """Stop an owner until its lease has expired, and let another take over: the sleeper wakes, and leaves quietly."""
    scene = campaign.scene("take-overs")
    with scene.figures.timed():
        made = [Trial("sit", rng.choice(("none", "denoiser")), seed=index, steps=LONG) for index in range(trials)]
        for index, trial in enumerate(made):
            _take_one_over(scene, trial, rng.uniform(0, 0.5), WAKES_IN[index % len(WAKES_IN)])
        scene.conclude(made)
    return scene.figures


def _damage_one(scene: Scene, trial: Trial, rng: random.Random) -> None:
    command = _in_training(scene, trial, rng.uniform(0.1, 0.5))
    scene.figures.count("killed in", command.phase())
    command.send(signal.SIGKILL)
    command.wait()
    newest = max(command.space.checkpoints.glob("step-*.pt"))
    content = bytearray(newest.read_bytes())
    place = rng.randrange(len(content))
    if rng.random() < 0.5:
        scene.figures.count("damages", "a bit flipped")
        content[place] ^= 1 << rng.randrange(8)
    else:
        scene.figures.count("damages", "cut short")
        del content[place:]
    newest.write_bytes(content)
    if "is damaged: going on from step" not in scene.finish(trial).said():
        scene.figures.fault(f"{trial} did not say that its newest checkpoint was damaged")


def _take_one_over(scene: Scene, trial: Trial, delay: float, wakes_in: str) -> None:
    sleeper = _in_training(scene, trial, delay)
    sleeper.send(signal.SIGSTOP)
    scene.figures.count("stopped in", sleeper.phase())
    time.sleep(SLEEPS)
    for lease in sleeper.space.folder.glob("lease-*.json"):
        os.utime(lease, (LONG_AGO, LONG_AGO))
    other = scene.start(trial)
    if wakes_in == "the end":
        scene.require_finished(trial, other)
    else:
        other.reach(wakes_in)
    scene.figures.count("woke when the other was in", wakes_in)
    _wake(scene, trial, sleeper, is_quiet=wakes_in == "the end")
    scene.require_finished(trial, other)


def _wake(scene: Scene, trial: Trial, sleeper: Command, *, is_quiet: bool) -> None:
    """It leaves with one sentence; `is_quiet`: nobody else writes into the folder, so nothing may change there."""
    before = _contents(sleeper.space.folder) if is_quiet else {}
    sleeper.send(signal.SIGCONT)
    code, said = sleeper.wait(), sleeper.said()
    if code != TAKEN or "took over" not in said or "Traceback" in said:
        scene.figures.fault(f"the sleeper of {trial} ended with {code}: {sleeper.tail()}")
    if is_quiet and _contents(sleeper.space.folder) != before:
        scene.figures.fault(f"the sleeper of {trial} wrote into a folder that it had lost")


def _in_training(scene: Scene, trial: Trial, delay: float) -> Command:
    """A run that has two checkpoints or more, and works on the next."""
    scene.figures.runs += 1
    command = scene.start(trial)
    while len(list(command.space.checkpoints.glob("step-*.pt"))) < 2 and command.poll() is None:
        time.sleep(POLLED_EVERY)
    time.sleep(delay)
    return command


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
