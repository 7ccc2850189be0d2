"""Which records are others once more: a run entered twice, or its values or picture under another name (no torch)."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

from PIL import Image

from harness.bench_records import BenchRecord
from harness.contributing.values import is_judged
from harness.contributing.verdict import Fault
from harness.evaluation_records import EvaluationRecord
from harness.records import RunRecord
from harness.spec import RunConfig

# What equal shares of a thousand images happen to have; of a distance so many digits are looked at.
_COARSE: Final = ("accuracy", "precision", "recall", "geneval")
_DIGITS: Final = 8
# No two runs take the same time to the last digit of a clock.
_CLOCKS: Final = ("train_seconds", "sampling_seconds", "training_images_per_second")
FEWEST_POINTS: Final = 3
# A larger picture is refused unread; and where a PNG says how large it is.
MOST_PIXELS: Final = 2**24
_WIDTH_AND_HEIGHT: Final = (16, 20)

# Fields of a configuration that decide neither its images, nor even what its network learns.
_NOT_IN_IMAGES: Final = (
    "recipe.precision",
    "protocol.noise_levels",
    "protocol.outlier_images",
    "protocol.guidance.chosen",
)
_NOT_IN_NETWORK: Final = (
    "recipe.precision",
    "protocol",
    "sampler",
    "registers.guidance.scale",
    "latents.decoder",
    "latents.decoder_weights",
)


@dataclass(frozen=True)
class Trait:
    """Something that other records do not have by chance: of a `kind` that `_SAID` names.

    Runs of the same `effect` may have it too; where that is "", none may.
    """

    kind: str
    value: str
    effect: str = ""


@dataclass(frozen=True)
class Traits:
    """Those of one record, by its path below the results.

    `known` are those that were committed before: of two that are the same, the other one is the copy.  One that was
    `withdrawn` is no fault any more, and what repeats it is.
    """

    path: str
    traits: tuple[Trait, ...]
    known: bool
    withdrawn: bool = False


@dataclass
class _Seen:
    """Who had a trait first, of each effect."""

    by_effect: dict[str, Traits] = field(default_factory=dict)

    def twin(self, trait: Trait, each: Traits) -> Traits | None:
        """Who has it already, and should be the only one."""
        others = (other for effect, other in self.by_effect.items() if not trait.effect or effect != trait.effect)
        return next((other for other in others if not (other.withdrawn and each.known)), None)


def traits_of_run(
    path: str, record: RunRecord, *, known: bool, picture: bytes | None = None, withdrawn: bool = False
) -> Traits:
    """Those of a run's record; `picture` are the bytes of its sample grid, where they can be read.

    Verdicts are all the same where nothing was found in any image: they count where some image is right.
    """
    made = _effect(record.config, _NOT_IN_IMAGES)
    shown = _effect(record.config, (*_NOT_IN_IMAGES, "protocol.num_images"))
    learned = _effect(record.config, _NOT_IN_NETWORK)
    taught = _effect(record.config, (*_NOT_IN_NETWORK, "recipe.ema_decay", "recipe.second_ema_decay"))
    found = [Trait("whole", _sha256(record.model_dump_json(exclude={"created", "samples", "notes"})))]
    found += [
        Trait("value", _digest([m.name, f"{m.value:.{_DIGITS - 1}e}", m.basis and m.basis.words()]), made)
        for m in record.measurements
        if is_judged(m) and m.value and not any(coarse in m.name for coarse in _COARSE)
    ]
    if record.samples:
        found.append(Trait("picture", record.samples.sha256, shown))
    if picture is not None and (pixels := _pixels(picture)):
        found.append(Trait("picture", pixels, shown))
    if record.moments:
        found.append(Trait("moments", record.moments.sha256, made))
    if record.norm_maps:
        found.append(Trait("norm maps", record.norm_maps.sha256, learned))
    if record.verdicts and any(m.value for m in record.measurements if m.name.endswith("_image_accuracy")):
        found.append(Trait("verdicts", record.verdicts.sha256, made))
    if len(record.loss_curve) >= FEWEST_POINTS:
        curve = [(step, f"{loss:.{_DIGITS - 1}e}") for step, loss in record.loss_curve]
        found.append(Trait("curve", _digest(curve), taught))
    found += [
        Trait("clock", f"{measurement.name} {measurement.value!r}")
        for measurement in record.measurements
        if measurement.name in _CLOCKS and measurement.value
    ]
    return Traits(path, tuple(dict.fromkeys(found)), known, withdrawn)


def traits_of_evaluation(path: str, record: EvaluationRecord, *, known: bool) -> Traits:
    """Those of an evaluation's.  Its values may be those of the run whose images it judged.

    What somebody calls the images, or says of them in words, makes no other evaluation.
    """
    said = {"created", "evaluation_id", "title", "notes", "declared"}
    whole = record.model_dump(mode="json", exclude=said | {"images", "provenance"})
    told = [whole, record.images.sha256, record.provenance.code_sha256]
    return Traits(path, (Trait("whole", _digest(["evaluation", told])),), known)


def traits_of_bench(path: str, record: BenchRecord, *, known: bool) -> Traits:
    """Those of what was timed: the very same seconds are the same timing."""
    cases = [case.model_dump(mode="json", exclude={"title"}) for case in record.cases]
    return Traits(path, (Trait("whole", _digest(["bench", record.subject, cases])),), known)


def faults_of_twins(traits: Iterable[Traits]) -> Iterator[Fault]:
    """Every record that repeats one which was there before it."""
    first: defaultdict[tuple[str, str], _Seen] = defaultdict(_Seen)
    for each in sorted(traits, key=lambda each: (not each.known, each.path.rpartition("/")[2], each.path)):
        places = [(trait, first[trait.kind, trait.value]) for trait in each.traits]
        twins = ((trait.kind, twin) for trait, seen in places if (twin := seen.twin(trait, each)) is not None)
        kind, twin = next(twins, ("", None))
        if twin is not None and not each.withdrawn:
            yield Fault(each.path, "duplicate", _SAID[kind].format(twin=twin.path), _REMEDY, each.path)
        for trait, seen in places:
            seen.by_effect.setdefault(trait.effect, each)


_SAID: Final[Mapping[str, str]] = {
    "whole": "it says what {twin} says, and only its name and date are others",
    "clock": "it took to the last digit of a second as long as {twin}: no two runs do",
    "value": f"its values are to {_DIGITS} digits those of another run, {{twin}}",
    "picture": "its picture is that of another run, {twin}",
    "moments": "its moments are those of another run, {twin}",
    "norm maps": "its norm maps are those of another run, {twin}",
    "verdicts": "its verdicts are those of another run, {twin}",
    "curve": f"its loss curve is to {_DIGITS} digits that of another run, {{twin}}",
}
_REMEDY: Final = "submit each run once, with what it gave; of networks that have hardly learned, train them longer"


def _effect(config: RunConfig, without: Sequence[str]) -> str:
    """What decides what a run gives: not what its registers are called, nor what a run without outliers never meets.

    `without` are fields that decide nothing of what is compared.
    """
    named_otherwise = {"preset": "none", "absent_stages": (), "clamp": None, "loss_mask": None}
    registers = config.registers.model_copy(update=named_otherwise)
    fields = config.model_copy(update={"registers": registers}).model_dump(mode="json", exclude={"execution"})
    for place in without:
        *folders, name = place.split(".")
        inner: Any = fields
        for folder in folders:
            inner = inner.get(folder) or {}
        inner.pop(name, None)
    return _digest(fields)


def _pixels(picture: bytes) -> str:
    """The digest of a picture's pixels, however they are packed; "" for what is none, which another rule refuses."""
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in _WIDTH_AND_HEIGHT)
    if width * height > MOST_PIXELS:
        return ""
    try:
        with Image.open(BytesIO(picture), formats=("PNG",)) as image:
            return _sha256(f"{image.mode} {image.size} {hashlib.sha256(image.tobytes()).hexdigest()}")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""


def _digest(value: Any) -> str:
    return _sha256(json.dumps(value, default=str))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
