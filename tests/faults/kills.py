"""Scenario: runs are killed at random moments by random signals, and started again until they end."""

import random
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import duckdb

from harness import database
from harness.store import read_all
from tests.faults.campaign import Campaign, Scene, side_by_side
from tests.faults.checker import Fault, recorded_in_database
from tests.faults.commands import POLLED_EVERY, Command
from tests.faults.figures import Figures, name_of
from tests.faults.trials import Trial

BACKBONES = ("sit", "dit", "jit", "pdit", "rae-dit", "rae-dit-dh")
REGISTERS = ("none", "denoiser", "plain", "kv-bias", "gate-headwise", "register-guidance")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

# Where a blow falls: how often in this phase, and at most how many seconds after its begin.
MOMENTS = {
    "starting": (1, 0.3),
    "preparing": (1, 0.1),
    "training": (5, 0.5),
    "saving": (4, 0.5),
    "sampling": (3, 0.2),
    "judging": (3, 0.2),
    "publishing": (2, 0.005),
    "indexing": (2, 0.03),
}
NUMBERS_OF_BLOWS = (1, 1, 2, 3)
SHARE_FRESH, SHARE_TWINS, SHARE_SLEEPERS = 0.08, 0.15, 0.2

# What a process may end with besides the signal: it has finished before, was told that another is at work, or ended
# in good order on Control-C or a request to terminate.
FINISHED, TAKEN, INTERRUPTED, TERMINATED = 0, 2, 130, 143


@dataclass(frozen=True)
class Blow:
    """A signal, some time after a phase has begun.  A sleeper is stopped and goes on before it."""

    phase: str
    delay: float
    number: int
    sleeps: float
    is_fresh: bool
    has_twin: bool


@dataclass(frozen=True)
class Plan:
    """A run and what is to happen to it."""

    trial: Trial
    blows: tuple[Blow, ...]


def play(campaign: Campaign, rng: random.Random, runs: int) -> Figures:
    """Kill so many runs before their record, with one to three blows each."""
    scene = campaign.scene("kills")
    plans = [_plan(rng, index) for index in range(runs)]
    with scene.figures.timed():
        side_by_side(partial(_suffer, scene), plans, scene.figures)
        # Others in place of those whom no blow hit before their record.
        while _killed(scene) < runs and len(plans) < 2 * runs:
            plans.append(_plan(rng, len(plans)))
            scene.figures.add(_suffer(scene, plans[-1]))
        scene.conclude([plan.trial for plan in plans])
    if _killed(scene) < runs:
        scene.figures.fault(f"only {_killed(scene)} of {runs} runs could be killed")
    return scene.figures


def _killed(scene: Scene) -> int:
    return scene.figures.details["runs"]["killed"]


def _plan(rng: random.Random, index: int) -> Plan:
    trial = Trial(rng.choice(BACKBONES), rng.choice(REGISTERS), seed=index)
    return Plan(trial, tuple(_blow(rng) for _ in range(rng.choice(NUMBERS_OF_BLOWS))))


def _blow(rng: random.Random) -> Blow:
    phase = rng.choices(list(MOMENTS), [weight for weight, _ in MOMENTS.values()])[0]
    return Blow(
        phase=phase,
        delay=rng.uniform(0, MOMENTS[phase][1]),
        number=rng.choice(SIGNALS),
        sleeps=rng.uniform(0.1, 0.8) if rng.random() < SHARE_SLEEPERS else 0.0,
        is_fresh=rng.random() < SHARE_FRESH,
        has_twin=rng.random() < SHARE_TWINS,
    )


def _suffer(whole: Scene, plan: Plan) -> Figures:
    """Let a run take its blows, then let it end."""
    scene = whole.part()
    scene.figures.runs = 1
    kills = sum([_strike(scene, plan.trial, blow) for blow in plan.blows])
    scene.figures.count("runs", "killed" if kills else "ended before the blow")
    scene.finish(plan.trial)
    _require_in_database(scene, plan.trial)
    return scene.figures


def _strike(scene: Scene, trial: Trial, blow: Blow) -> bool:
    """Start the run and strike; whether that ended it before it had a record."""
    commands = [scene.start(trial, is_fresh=blow.is_fresh) for _ in range(2 if blow.has_twin else 1)]
    figures = scene.figures
    figures.count("starts", "python -m harness" if blow.is_fresh else "forked")
    struck = _wait(commands, blow)
    seen = struck.phase()
    struck.send(blow.number)
    code = struck.wait()
    is_killed = code not in (FINISHED, TAKEN) and not struck.records()
    if is_killed:
        figures.count("kills by signal", name_of(blow.number) + (" after SIGSTOP" if blow.sleeps else ""))
        figures.count("kills by phase", seen)
    elif code != FINISHED:
        figures.count("other ends", "killed after its record" if code != TAKEN else "told that another is at work")
    if code not in (FINISHED, TAKEN, INTERRUPTED, TERMINATED, -blow.number):
        figures.fault(f"{trial} ended with {code} after {blow}: {struck.tail()}")
    if code == TAKEN and "being worked on" not in struck.said():
        figures.fault(f"{trial} gave up after {blow}: {struck.tail()}")
    for other in commands:
        if other is not struck:
            _require_peace(scene, trial, other)
    _look_around(scene)
    return is_killed


def _wait(commands: list[Command], blow: Blow) -> Command:
    """The command to strike, at the moment to do so: of twins the one that is at work."""
    while not any(each.has_reached(blow.phase) or each.poll() is not None for each in commands):
        time.sleep(POLLED_EVERY)
    struck = next((each for each in commands if each.is_at_work()), commands[0])
    struck.reach(blow.phase)
    time.sleep(blow.delay)
    if blow.phase == "saving":
        struck.reach("saving")
    if blow.sleeps:
        struck.send(signal.SIGSTOP)
        time.sleep(blow.sleeps)
        struck.send(signal.SIGCONT)
    return struck


def _require_peace(scene: Scene, trial: Trial, other: Command) -> None:
    """The other of twins was told so and left, or took over after the kill."""
    code = other.wait()
    if code == TAKEN and "being worked on" in other.said():
        scene.figures.count("twins", "told that another is at work")
    elif code == FINISHED:
        scene.figures.count("twins", "took over and finished")
    else:
        scene.figures.fault(f"the twin of {trial} ended with {code}: {other.tail()}")


def _look_around(scene: Scene) -> None:
    """At every moment the database opens, and every record is whole."""
    results = scene.room / "results"
    scene.figures.faults += [Fault("half", f"{problem.path}: {problem.reason}") for problem in read_all(results)[1]]
    if (results / database.DATABASE).exists():
        _opened(scene)


def _opened(scene: Scene) -> Collection[str]:
    """The runs in the database."""
    scene.figures.openings += 1
    try:
        return recorded_in_database(scene.room / "results")
    except (duckdb.Error, FileNotFoundError) as error:
        scene.figures.faults.append(Fault("unreadable", str(error)))
        return ()


def _require_in_database(scene: Scene, trial: Trial) -> None:
    """Whose command ended well finds its run on the board, even where a kill came before the database was made."""
    run_id = trial.config(scene.room).run_id
    if run_id not in _opened(scene):
        scene.figures.faults.append(Fault("lost", f"{trial}: {run_id} in the database after its command ended well"))
