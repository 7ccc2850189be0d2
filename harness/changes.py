"""`--set a.b=c`: change any field of a run's configuration, or say why not."""

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from harness.errors import UserError, unknown_name
from harness.frozen import Frozen

AnyFrozen = TypeVar("AnyFrozen", bound=Frozen)

# What follows from something else, and what to use instead.
_DERIVED = {
    "backbone": "use --backbone",
    "seed": "use --seed, or --seeds",
    "size": "use --size, or an exact name such as --backbone sit-b-2",
    "registers.preset": "use --registers",
    "registers.denoiser": "use --registers denoiser, none or dsr, and set the fields of registers.denoiser",
    "registers.encoder": "use --registers encoder, none or dsr, and set the fields of registers.encoder",
    "registers.absent_stages": "use --registers",
    "registers.native_tokens": "it follows from the network: set network.in_context_len",
    "latents.encoder": "use --encoder",
    "latents.decoder_weights": "use --decoder FILE",
    "latents.statistics": "use --statistics FILE",
    "weights": "use --weights PATH_OR_HUB_ID",
    "third_party": "use --backbone path/to/file.py:name",
    "third_party.file": "use --backbone path/to/file.py:name",
    "third_party.sha256": "it follows from the file: use --backbone path/to/file.py:name",
    "protocol.guidance.guide": "use --guide PATH_OR_HUB_ID",
    "task.name": "use --task",
    "task.num_classes": "it is counted in the data",
    "task.class_names": "they are read from the data",
    "task.data_fingerprint": "it is computed from the data",
    "task.num_training_images": "they are counted",
    "task.metric": "it belongs to the task",
    "task.prompts": "they belong to the task",
    "text.vocabulary": "it is counted in the captions",
    "text.encoder": "use --text-encoder PATH_OR_HUB_ID",
    "text.encoder_sha256": "it follows from the files: use --text-encoder PATH_OR_HUB_ID",
}


class Changes:
    """The user's changes, by section of the RunConfig; each section is applied once, when its defaults are known."""

    def __init__(self, texts: Iterable[str], sections: Iterable[str]) -> None:
        self._by_section: dict[str, list[tuple[list[str], Any]]] = {}
        known = set(sections)
        for text in texts:
            path, value = _parse(text)
            if reason := _DERIVED.get(".".join(path)):
                raise UserError(f"--set {text}: {'.'.join(path)} cannot be set", reason)
            if path[0] not in known:
                raise unknown_name("field", path[0], known)
            self._by_section.setdefault(path[0], []).append((path[1:], value))

    def apply(self, section: str, model: AnyFrozen, kind: Any = None) -> AnyFrozen:
        """The section with the user's changes, validated.  `kind` is the type to validate as, where it is a union.

        A change of the field `kind` starts from that kind's defaults.
        """
        adapter: TypeAdapter[AnyFrozen] = TypeAdapter(kind or type(model))
        changes = sorted(self._by_section.get(section, []), key=lambda change: change[0] != ["kind"])
        data = model.model_dump()
        for path, value in changes:
            if not path:
                raise UserError(f"{section} is a group of fields", f"name one: {_names(section, data)}")
            if path == ["kind"] and value != data.get("kind"):
                data = _validated(adapter, {"kind": value}, f"{section}.kind", value).model_dump()
                continue
            _put(data, section, path, value)
            _validated(adapter, data, ".".join([section, *path]), value)
        return _validated(adapter, data, section, "") if changes else model

    def are_about(self, section: str) -> bool:
        """Whether any of them is about a section."""
        return section in self._by_section


def _parse(text: str) -> tuple[list[str], Any]:
    name, equals, value = text.partition("=")
    path = name.strip().split(".")
    if not equals or not all(path):
        raise UserError(f"--set {text!r} is not understood", "write --set FIELD=VALUE, such as --set recipe.steps=500")
    try:
        return path, json.loads(value)
    except json.JSONDecodeError:
        return path, value.strip()


def _put(data: dict[str, Any], section: str, path: list[str], value: Any) -> None:
    *parents, field = path
    place, where = data, section
    for name in parents:
        _require(place, where, name)
        where = f"{where}.{name}"
        if not isinstance(place[name], dict):
            empty = place[name] is None
            raise UserError(
                f"{where} is {'absent from this run' if empty else 'a single value'}: it has no field {field!r}",
                "choose a register preset that has it (see `list registers`)" if empty else f"use --set {where}=...",
            )
        place = place[name]
    _require(place, where, field)
    place[field] = value


def _require(place: dict[str, Any], where: str, name: str) -> None:
    if name not in place:
        raise unknown_name(f"field of {where}", name, place)


def _validated(adapter: TypeAdapter[AnyFrozen], data: dict[str, Any], name: str, value: Any) -> AnyFrozen:
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{name} cannot be {json.dumps(value)}: {first['msg'][:1].lower()}{first['msg'][1:]}",
            "`run ... --dry-run` shows every field with its value",
        ) from error


def _names(section: str, data: dict[str, Any]) -> str:
    return ", ".join(f"{section}.{name}" for name in data)
