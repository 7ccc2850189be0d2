"""When two measured values may be compared: what must be equal, and what may differ but must be shown (no torch)."""

import functools
import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from harness.frozen import Fraction, Frozen, NonNegativeFloat, NonNegativeInt, PositiveInt
from harness.spec import RunConfig, Task

UNKNOWN: Final = "unknown"
Sha256 = str

Labels = Literal["balanced", "random", "unknown"]
Rule = Literal["round", "truncate-128", "truncate-255", "unknown"]
WeightsUsed = Literal["ema", "raw", "unknown"]


class ExtractorIdentity(Frozen):
    """What turned images into features: a name, the version of the code around it, and the SHA-256 of its weights."""

    name: str
    version: str
    weights_sha256: Sha256


class ReferenceIdentity(Frozen):
    """The set that images are compared with.  `name` is what it is called here: no part of what it is.

    `sha256` is that of its images' pixels where it was built here, of its statistics where they were imported.
    """

    name: str
    sha256: Sha256
    split: str = UNKNOWN
    num_images: PositiveInt | None = None
    crop: str = UNKNOWN


class GuidanceUsed(Frozen):
    """How sampling was guided: by what, how strongly, when (t = 0 noise), and whether it was `chosen` by the score.

    `channels` and `edges` are the families' ways (harness.spec.Guidance).  `registers` is 1 plus
    how many times the registers' change of a prediction is added to it: 1 where they do not guide.
    """

    kind: Literal["none", "classifier-free", "autoguidance", "unknown"] = "none"
    scale: NonNegativeFloat = 1.0
    outside: NonNegativeFloat = 1.0
    interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    channels: Literal["first-three", "all", "unknown"] = "all"
    edges: Literal["closed", "open", "left-open", "unknown"] = "closed"
    guide_sha256: str = ""
    registers: NonNegativeFloat = 1.0
    chosen: Literal["untuned", "tuned", "unknown"] = "untuned"

    def words(self) -> str:
        """In words: "classifier-free 1.5 in 0.1 to 1 (tuned)"; "" for none."""
        first, last = self.interval
        within = "" if self.interval == (0.0, 1.0) else f" in {first:g} to {last:g}"
        by_class = f"{self.kind} {self.scale:g}{within} ({self.chosen})" if self.kind != "none" else ""
        by_registers = f"register guidance {self.registers:g}" if self.registers != 1.0 else ""
        return ", ".join(filter(None, [by_class, by_registers]))


UNGUIDED = GuidanceUsed()

# What a reference is called here is no part of what it is.
_NAMES: Any = {"reference": {"name"}}


class Basis(Frozen):
    """What one value rests on: whose arithmetic, which features, against which reference, with which guidance.

    `settings` are constants of a metric that others set otherwise: the k of precision and recall, noise levels probed.
    """

    implementation: str = "dsr-bench"
    version: PositiveInt = 1
    extractor: ExtractorIdentity | None = None
    reference: ReferenceIdentity | None = None
    guidance: GuidanceUsed = UNGUIDED
    settings: str = ""

    def words(self) -> str:
        """What tells this basis from others: "against val-50k (inception-clean), classifier-free 1.5"."""
        reference = f"against {self.reference.name}" if self.reference else ""
        extractor = f"({self.extractor.name})" if self.extractor else ""
        return ", ".join(filter(None, [f"{reference} {extractor}".strip(), self.guidance.words()]))


class Conditions(Frozen):
    """What all values of a run or of a set of images have in common, and must share with others to be compared.

    `data` names the images that were learned, by their fingerprint, "unknown" for a released model; `resize` is what
    happened to generated images before they were stored; `labels` is how classes were chosen.
    """

    task: str = UNKNOWN
    data: str = UNKNOWN
    num_images: PositiveInt
    channels: PositiveInt
    height: PositiveInt
    width: PositiveInt
    labels: Labels = UNKNOWN
    resize: str = "none"
    uint8_rule: Rule = UNKNOWN
    weights: WeightsUsed = UNKNOWN

    @property
    def digest(self) -> str:
        """Six hexadecimal digits, equal for equal conditions."""
        return _digest_of_conditions(self)[:6]

    def words(self) -> str:
        """The conditions in one line, which ends in their digest."""
        images = f"{self.num_images} images of {self.channels} x {self.height} x {self.width}"
        resized = "" if self.resize == "none" else f", resized {self.resize}"
        judged = f"labels {self.labels}, 8 bits by {self.uint8_rule}, weights {self.weights}"
        return f"{images}{resized}, {judged} [{self.digest}]"


class Key(Frozen):
    """The comparability key of one value: two values are compared only where their keys are `same`."""

    metric: str
    conditions: Conditions
    basis: Basis | None

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits, equal for values that may be compared."""
        return _digest(_flat(self))[:12]

    def without_register_guidance(self) -> "Key":
        """The key that the matched value without registers has: guidance by registers is these registers' own."""
        if self.basis is None or self.basis.guidance.registers == 1.0:
            return self
        guidance = self.basis.guidance.model_copy(update={"registers": 1.0})
        return self.model_copy(update={"basis": self.basis.model_copy(update={"guidance": guidance})})

    def differences(self, other: "Key") -> list[str]:
        """What forbids to compare two values, in words, such as "labels: balanced here, random there"; none if same."""
        mine, theirs = _flat(self), _flat(other)
        return [
            f"{field}: {_shown(mine.get(field))} here, {_shown(theirs.get(field))} there"
            for field in sorted(mine.keys() | theirs.keys())
            if mine.get(field) != theirs.get(field)
        ]


class Circumstances(Frozen):
    """What may differ between values that are compared, and is therefore shown beside them.

    `nfe` are forward passes per image, None where an adaptive solver decides; `attention` is the backend, `tf32` says
    whether float32 products were rounded to it; `checkpoint` names released weights, "" those that were trained here,
    of which always the last are measured, never the best.
    """

    seed: NonNegativeInt | None = None
    steps: NonNegativeInt | None = None
    images_seen: Annotated[int, Field(ge=0)] | None = None
    ema_decay: Fraction | None = None
    sampler: str = UNKNOWN
    nfe: PositiveInt | None = None
    precision: str = UNKNOWN
    tf32: bool | None = None
    attention: str = UNKNOWN
    decoder_sha256: Sha256 = ""
    checkpoint: str = ""
    device: str = UNKNOWN


def conditions_of(config: RunConfig) -> Conditions:
    """The conditions under which a run is measured here: balanced labels, EMA weights, nothing resized."""
    task = config.task
    return Conditions(
        task=task.name,
        data=UNKNOWN if config.weights else _data(task),
        num_images=config.protocol.num_images,
        channels=task.channels,
        height=task.image_size,
        width=task.image_size,
        labels="balanced",
        uint8_rule=config.protocol.uint8_rule,
        weights="ema",
    )


def guidance_used(config: RunConfig) -> GuidanceUsed:
    """How a run's samples are guided, by a class, a weaker network or registers; what changes nothing is none."""
    guidance, by_registers = config.protocol.guidance, config.registers.guidance
    if guidance.scale == 1.0 and guidance.outside == 1.0:
        return GuidanceUsed(registers=by_registers.scale if by_registers else 1.0)
    return GuidanceUsed(
        kind="classifier-free" if guidance.guide is None else "autoguidance",
        scale=guidance.scale,
        outside=guidance.outside,
        interval=guidance.interval,
        channels=guidance.channels,
        edges=guidance.edges,
        registers=1.0 + by_registers.scale if by_registers else 1.0,
        guide_sha256=guidance.guide.weights_sha256 if guidance.guide else "",
        chosen=guidance.chosen,
    )


# Thousands of records share a task and conditions.
@functools.lru_cache(maxsize=256)
def _digest_of_conditions(conditions: Conditions) -> str:
    return _digest(conditions.model_dump(mode="json"))


@functools.lru_cache(maxsize=256)
def _data(task: Task) -> str:
    """What was learned: the fingerprint of the images with everything else that the task says of them."""
    return _digest(task.model_dump(mode="json", exclude_defaults=True))[:12]


def _flat(key: Key) -> dict[str, Any]:
    """The fields that must be equal, by name; what a reference is called here is none of them."""
    basis = key.basis.model_dump(mode="json", exclude=_NAMES) if key.basis else {}
    return dict(_leaves({"metric": key.metric, **key.conditions.model_dump(mode="json"), **basis}))


def _leaves(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
