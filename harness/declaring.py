"""What a person says of the images to be judged, such as labels=balanced, checked field by field (no torch)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.comparability import UNGUIDED, Circumstances, Conditions, GuidanceUsed
from harness.errors import UserError, unknown_name
from harness.spec import Guidance

Checked = TypeVar("Checked", Conditions, Circumstances)

SEEN = ("num_images", "channels", "height", "width")
UNKNOWN_GUIDANCE = GuidanceUsed(kind="unknown", chosen="unknown")
GUIDANCE = re.compile(r"(?P<scale>[0-9.]+)(@(?P<start>[0-9.]+)-(?P<stop>[0-9.]+))?(,(?P<chosen>tuned|untuned))?")


@dataclass(frozen=True)
class Declared:
    """What was said, word for word, and what it means: fields of Conditions and Circumstances, and the guidance."""

    words: tuple[str, ...] = ()
    conditions: dict[str, Any] = field(default_factory=dict)
    circumstances: dict[str, Any] = field(default_factory=dict)
    guidance: GuidanceUsed = UNKNOWN_GUIDANCE


def parse(words: Iterable[str]) -> Declared:
    """FIELD=VALUE each.  Raises UserError for a field that is none, is seen in the images, or takes no such value."""
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise UserError(f"--declare {word} says nothing", "write FIELD=VALUE, such as labels=balanced")
        if name in given:
            raise UserError(f"--declare says {name} twice", "say it once")
        given[name] = value
    said = tuple(f"{name}={value}" for name, value in sorted(given.items()))
    guidance = _guidance(given.pop("guidance")) if "guidance" in given else UNKNOWN_GUIDANCE
    known = [name for name in (*Conditions.model_fields, *Circumstances.model_fields) if name not in SEEN]
    for name in given:
        if name in SEEN:
            raise UserError(f"{name} cannot be declared: it is seen in the images", f"leave --declare {name} out")
        if name not in known:
            raise unknown_name("field to declare", name, [*known, "guidance"])
    conditions = {name: value for name, value in given.items() if name in Conditions.model_fields}
    circumstances = {name: value for name, value in given.items() if name in Circumstances.model_fields}
    seen = dict.fromkeys(SEEN, 1)
    _checked(Conditions, {**seen, **conditions})
    told = _checked(Circumstances, circumstances).model_dump(include=set(circumstances))
    return Declared(said, conditions, told, guidance)


def _checked(kind: type[Checked], fields: dict[str, Any]) -> Checked:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise UserError(f"--declare {name}={fields[name]}: {first['msg']}", "correct it, or leave it out") from error


def _guidance(text: str) -> GuidanceUsed:
    """`none`, or SCALE[@FROM-TO][,tuned|untuned]: times run from 0 noise to 1 data; scale 1 is none, as in runs."""
    if text == "none":
        return UNGUIDED
    found = GUIDANCE.fullmatch(text)
    problem = UserError(
        f"--declare guidance={text} is no guidance",
        "write guidance=none, or SCALE@FROM-TO,tuned such as guidance=1.5@0.1-1.0,untuned (0 noise, 1 data)",
    )
    if found is None:
        raise problem
    interval = (found["start"] or 0, found["stop"] or 1)
    try:
        said = Guidance.model_validate({"scale": found["scale"], "interval": interval})
    except ValueError:
        raise problem from None
    if said.scale == 1.0:
        return UNGUIDED
    chosen = found["chosen"] or "unknown"
    return GuidanceUsed.model_validate(
        {
            "kind": "classifier-free",
            "scale": said.scale,
            "interval": said.interval,
            "channels": "unknown",
            "edges": "unknown",
            "chosen": chosen,
        }
    )
