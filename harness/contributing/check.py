"""Try a backbone as a reviewer would: its promises, what registers cost it, and what they do to it on the digits."""

import contextlib
import hashlib
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter

from harness import contract, provenance, registry
from harness.build import size_of
from harness.contract import OF_A_FAMILY, OF_A_FILE, OF_AN_ARM, Promise, PromiseError
from harness.errors import UserError
from harness.executing import executed
from harness.files import write_text
from harness.machine import decide_precision, find_device, name_of
from harness.metrics.cost import Size
from harness.progress import Progress, say
from harness.records import Provenance
from harness.resolve import Request, resolve
from harness.run import Outcome, run
from harness.spec import Execution, RunConfig

NONE, TASK, PROMISES, STEPS = "none", "digits", "promises.json", "recipe.steps="

# The fewest hundreds after which digits are seen to be learnt; a run that counts takes 1,100.
REHEARSED_STEPS = 600

# What Python and torch raise where shapes, names or values do not fit: here a finding, anywhere else a traceback.
_NETWORK_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
)


@dataclass(frozen=True)
class Asked:
    """What is to be tried: a backbone as `--backbone` names it, with which presets beside none it learns the digits.

    `changes` are those of the costs and of the runs; a quick check looks at these presets alone, and trains nothing.
    """

    backbone: str
    presets: tuple[str, ...]
    changes: tuple[str, ...]
    is_quick: bool
    execution: Execution


@dataclass(frozen=True)
class Answer:
    """Whether a promise is kept: the presets it was tried with, and for those that break it what was seen."""

    promise: Promise
    presets: tuple[str, ...]
    broken: Mapping[str, str]


class Kept:
    """Which promises were found to hold, with which preset; without a file nothing is remembered.

    What is broken is tried again.  A damaged file counts as empty.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._held: set[str] = set()
        if file is not None and file.exists():
            with contextlib.suppress(ValueError):
                self._held = _LINES.validate_json(file.read_bytes())

    def holds(self, promise: Promise, preset: str) -> bool:
        """Whether this was found before."""
        return _line(promise, preset) in self._held

    def add(self, promise: Promise, preset: str) -> None:
        """It holds."""
        if self._file is not None and not self.holds(promise, preset):
            self._held.add(_line(promise, preset))
            write_text(self._file, json.dumps(sorted(self._held), indent=1) + "\n")


_LINES = TypeAdapter(set[str])


def _line(promise: Promise, preset: str) -> str:
    return f"{promise.name} {preset}"


@dataclass(frozen=True)
class Checked:
    """All that was found.  `runs` are empty where nothing was trained, else none's first."""

    asked: Asked
    config: RunConfig
    answers: tuple[Answer, ...]
    sizes: Mapping[str, Size]
    runs: tuple[Outcome, ...]
    provenance: Provenance

    @property
    def passes(self) -> bool:
        """Whether every promise is kept."""
        return not any(answer.broken for answer in self.answers)


def check(asked: Asked) -> Checked:
    """Try a backbone.  What an interrupted check found to hold, and its runs, are kept below runs/check.

    They belong to the code as it is, and are none of the results.  Where a promise is broken nothing is trained; a
    quick check keeps nothing.
    Raises UserError for a name, a file or a setting that cannot be, and a build that returns no Denoiser.
    """
    plain, *_ = (_learning(asked, preset) for preset in (NONE, *asked.presets))
    made_by = _provenance(plain)
    presets = tuple(dict.fromkeys([NONE, *asked.presets] if asked.is_quick else [*contract.presets(), *asked.presets]))
    place = Path(asked.execution.runs) / "check" / f"{plain.backbone}-{_digest(plain, made_by)}"
    answers = tuple(_answers(asked, presets, Kept() if asked.is_quick else Kept(place / PROMISES)))
    sizes = {preset: size_of(_learning(asked, preset)) for preset in presets}
    checked = Checked(asked, plain, answers, sizes, (), made_by)
    if asked.is_quick or not checked.passes:
        return checked
    runs = tuple(_trained(asked, (NONE, *asked.presets), place))
    return Checked(asked, plain, answers, sizes, runs, made_by)


def what_breaks(promise: Promise, config: RunConfig) -> str | None:
    """What was seen that breaks a promise, an exception of the network's included; None where it is kept."""
    try:
        promise.check(config)
    except PromiseError as error:
        return str(error)
    except _NETWORK_ERRORS as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error).strip().partition("\n")[0]
        return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}: {text}"
    return None


def _learning(asked: Asked, preset: str) -> RunConfig:
    changes = tuple(each for each in asked.changes if preset != NONE or not each.startswith("registers."))
    return resolve(Request(asked.backbone, preset, TASK, changes=changes, execution=asked.execution))


def _provenance(config: RunConfig) -> Provenance:
    device = find_device(config.execution.device)
    return provenance.collect(
        device=str(device),
        device_name=name_of(device),
        precision=decide_precision(config.recipe.precision, device),
        threads=config.execution.threads,
        sampling_batch=None,
        execution=config.execution,
    )


def _digest(config: RunConfig, made_by: Provenance) -> str:
    """Of all that an answer depends on: our code, a third party's file, the size, and the packages beneath."""
    own = config.third_party.sha256 if config.third_party else ""
    text = json.dumps([made_by.code_sha256, own, config.exact_name, made_by.versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _answers(asked: Asked, presets: Sequence[str], kept: Kept) -> Iterator[Answer]:
    torch.set_num_threads(1)
    arms = {preset: _small(asked, preset) for preset in presets if preset in contract.presets()}
    of_it_alone = OF_A_FAMILY if arms[NONE].third_party else (*OF_A_FILE, *OF_A_FAMILY)
    with Progress("promises", len(of_it_alone) + len(OF_AN_ARM) * len(arms)) as progress:
        for promise in of_it_alone:
            yield _answer(promise, {NONE: arms[NONE]}, kept, progress)
        for promise in OF_AN_ARM:
            yield _answer(promise, arms, kept, progress)


def _small(asked: Asked, preset: str) -> RunConfig:
    """The run that promises are tried with: as narrow as its blocks can be."""
    changes = contract.small_changes(registry.named(asked.backbone).backbone)
    request = Request(asked.backbone, preset, TASK, changes=changes, execution=Execution(device="cpu", threads=1))
    try:
        return resolve(Request(**{**vars(request), "changes": (*contract.NARROW, *changes)}))
    except UserError:
        return resolve(request)


def _answer(promise: Promise, arms: Mapping[str, RunConfig], kept: Kept, progress: Progress) -> Answer:
    broken = {}
    for preset, config in arms.items():
        seen = None if kept.holds(promise, preset) else what_breaks(promise, config)
        progress.advance(1, promise.name)
        if seen is not None:
            broken[preset] = seen
            say(f"broken with {preset}: {promise.text}: {seen}")
        else:
            kept.add(promise, preset)
    return Answer(promise, tuple(arms), broken)


def _trained(asked: Asked, presets: Sequence[str], place: Path) -> Iterator[Outcome]:
    steps = () if any(each.startswith(STEPS) for each in asked.changes) else (f"{STEPS}{REHEARSED_STEPS}",)
    rehearsed = replace(asked, changes=(*asked.changes, *steps))
    for number, preset in enumerate(presets, start=1):
        say(f"learning the digits with registers {preset} ({number} of {len(presets)})")
        yield run(executed(_learning(rehearsed, preset), runs=str(place / "runs"), results=str(place / "results")))
