"""Which records are others once more: a run entered twice, or its values or picture under another name (no torch)."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.contributing.values import is_judged
from harness.contributing.verdict import Fault
from harness.evaluation_records import EvaluationRecord
from harness.records import RunRecord
from harness.spec import RunConfig

# What equal shares of a thousand images happen to have; a distance has sixteen digits.
_COARSE = ("accuracy", "precision", "recall")


@dataclass(frozen=True)
class Traits:
    """What of a record no other can have, by its path below the results.

    Runs with the same `effect` may give the same numbers.  `known` are those that were committed before: of two that
    are the same, the other one is the copy.
    """

    path: str
    effect: str
    known: bool
    whole: str
    values: str
    picture: str


def traits_of_run(path: str, record: RunRecord, *, known: bool) -> Traits:
    """Those of a run's record."""
    judged = sorted(
        (m.name, m.value, m.basis and m.basis.words()) for m in record.measurements if is_judged(m) and m.value
    )
    is_fine = any(not name.startswith(_COARSE) and "accuracy" not in name for name, *_ in judged)
    return Traits(
        path=path,
        effect=_effect(record.config),
        known=known,
        whole=_sha256(record.model_dump_json(exclude={"created", "samples", "notes"})),
        values=_digest(judged) if is_fine else "",
        picture=record.samples.sha256 if record.samples else "",
    )


def traits_of_evaluation(path: str, record: EvaluationRecord, *, known: bool) -> Traits:
    """Those of an evaluation's.  Its values may be those of the run whose images it judged, and its own once more."""
    whole = record.model_dump_json(exclude={"created", "evaluation_id"})
    return Traits(path, record.evaluation_id, known, "", _digest(["evaluation", whole]), "")


def faults_of_twins(traits: Iterable[Traits]) -> Iterator[Fault]:
    """Every record that repeats one which was there before it."""
    first: dict[str, defaultdict[str, list[Traits]]] = {
        name: defaultdict(list) for name in ("whole", "values", "picture")
    }
    for each in sorted(traits, key=lambda each: (not each.known, each.path.rpartition("/")[2], each.path)):
        for name, seen in first.items():
            value = getattr(each, name)
            if not value:
                continue
            twin = next((other for other in seen[value] if name == "whole" or other.effect != each.effect), None)
            seen[value].append(each)
            if twin is not None:
                yield Fault(each.path, "duplicate", _SAID[name].format(twin=twin.path), _REMEDY, each.path)
                break


_SAID = {
    "whole": "it says what {twin} says, and only its name and date are others",
    "values": "its values are to the last digit those of another run, {twin}",
    "picture": "its picture is that of another run, {twin}",
}
_REMEDY = "submit each run once, with what it gave"


def _effect(config: RunConfig) -> str:
    """What decides a run's numbers: not what its registers are called, nor what a run without outliers never meets."""
    registers = config.registers
    named_otherwise = {"preset": "none", "absent_stages": (), "clamp": None, "loss_mask": None}
    registers = config.registers.model_copy(update=named_otherwise)
    return config.model_copy(update={"registers": registers}).run_id


def _digest(value: object) -> str:
    return _sha256(json.dumps(value, default=str))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
