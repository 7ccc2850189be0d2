"""From a grid to its runs: every combination, resolved before any of them starts (no torch)."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dsr import PRESETS
from harness.arguments import names
from harness.arms import NONE, without_registers
from harness.errors import UserError
from harness.resolve import Request, resolve, with_images
from harness.spec import RunConfig

MOST_ERRORS = 5

# All the values that one field takes, as `field=value` each.
Factor = tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """Every backbone with every register preset, every combination of the factors' values, and every seed.

    `request` is what all runs share.  Each has a matched run without registers beside it, unless the grid is `alone`.
    """

    request: Request
    backbones: tuple[str, ...]
    registers: tuple[str, ...]
    seeds: tuple[int, ...]
    factors: tuple[Factor, ...]
    alone: bool


@dataclass(frozen=True)
class Runs:
    """What a grid comes to: its runs, each once, and what a person should know about how they came about."""

    configs: tuple[RunConfig, ...]
    notes: tuple[str, ...]


def grid_of(request: Request, seeds: Sequence[int], *, alone: bool) -> Grid:
    """The grid of a request whose backbone, registers and changes are lists.

    Where a field is changed twice, the later change holds.  Raises UserError for a list that cannot be read.
    """
    factors = dict(map(factor, request.changes))
    return Grid(
        request=replace(request, changes=()),
        backbones=_listed(request.backbone, "backbone"),
        registers=_listed(request.registers, "registers"),
        seeds=tuple(seeds),
        factors=tuple(factors.values()),
        alone=alone,
    )


def factor(change: str) -> tuple[str, Factor]:
    """`a.b=4,16` as its field a.b, and a.b=4 with a.b=16.  A JSON list or string is one value, commas and all.

    Raises UserError for a change without a value between two commas.
    """
    field, equals, values = change.partition("=")
    each = [value.strip() for value in _split(values)]
    if len(each) > 1 and not all(each):
        raise UserError(f"--set {change!r} has an empty value", "write values between single commas: FIELD=4,16,36")
    return field.strip(), tuple(f"{field}{equals}{value}" for value in each)


def expand(grid: Grid, *, needs_data: bool) -> Runs:
    """All runs of a grid, the matched ones without registers first, equal ones once.

    A change of `registers.*` is made to the presets that have the field; the others take part once, unchanged.
    Raises UserError as `resolve` does; where several runs cannot be, it names the first few reasons.
    """
    arms = _Arms(replace(grid, request=with_images(grid.request)), needs_data=needs_data)
    requests = list(arms.requests())
    configs = [config for request in requests if (config := arms.resolve(request)) is not None]
    arms.raise_errors(len(requests))
    seeded = (config.model_copy(update={"seed": seed}) for config in configs for seed in grid.seeds)
    return Runs(tuple({config.run_id: config for config in seeded}.values()), tuple(arms.notes))


class _Arms:
    """The arms of a grid, and what went wrong with them: a run of another seed is resolved with its arm."""

    def __init__(self, grid: Grid, *, needs_data: bool) -> None:
        self._grid, self._needs_data = grid, needs_data
        self._of_registers = [each for each in grid.factors if each[0].startswith("registers.")]
        self._of_others = [each for each in grid.factors if not each[0].startswith("registers.")]
        self._errors: dict[str, UserError] = {}
        self.notes: list[str] = []

    def requests(self) -> Iterator[Request]:
        """One request for each arm, with the grid's largest seed."""
        unchanged = [request for backbone in self._grid.backbones for request in self._without_changes(backbone)]
        if not self._of_registers:
            yield from unchanged
            return
        fields = {request: self._fields(request) for request in unchanged}
        had = [each for each in self._of_registers if any(_has(found, each) for found in fields.values())]
        for request, found in fields.items():
            own = [each for each in had if found is not None and _has(found, each)]
            self._note_unchanged(request, [each for each in had if each not in own])
            yield from (_changed(request, changes) for changes in itertools.product(*own))
        for nowhere in (each for each in self._of_registers if each not in had):
            named = next((r for r in unchanged if r.registers != NONE), unchanged[0])
            yield _changed(named, nowhere[:1])

    def resolve(self, request: Request) -> RunConfig | None:
        """The run of a request; None where it cannot be, which is remembered."""
        try:
            return resolve(request, needs_data=self._needs_data)
        except UserError as error:
            self._errors.setdefault(str(error), error)
            return None

    def raise_errors(self, total: int) -> None:
        """Raise what was remembered, as one UserError."""
        errors = list(self._errors.values())
        if len(errors) == 1:
            raise errors[0]
        if errors:
            shown = "".join(f"\n  - {error.problem}\n    {error.remedy}" for error in errors[:MOST_ERRORS])
            more = f"\n  and {len(errors) - MOST_ERRORS} more" if len(errors) > MOST_ERRORS else ""
            raise UserError(
                f"this grid of {total} arms has {len(errors)} mistakes:{shown}{more}",
                "mend them, or leave out what cannot be; nothing was started",
            )

    def _without_changes(self, backbone: str) -> Iterator[Request]:
        """The presets on a backbone under every combination of what is no matter of registers."""
        presets = self._grid.registers
        if not self._grid.alone:
            presets = (NONE, *(preset for preset in presets if preset != NONE))
        for changes in itertools.product(*self._of_others):
            for preset in presets:
                request = replace(
                    self._grid.request, backbone=backbone, registers=preset, changes=changes, seed=max(self._grid.seeds)
                )
                yield self._without_foreign_files(request)

    def _without_foreign_files(self, request: Request) -> Request:
        """Files of the encoder's registers are for the presets that have some, where the grid names such a preset."""
        of_encoder = [preset for preset in self._grid.registers if _is_in_encoder(preset)]
        if not of_encoder or request.registers in of_encoder:
            return request
        return replace(without_registers(request), registers=request.registers)

    def _fields(self, request: Request) -> Mapping[str, Any] | None:
        config = self.resolve(request)
        return None if config is None else config.registers.model_dump()

    def _note_unchanged(self, request: Request, missing: Sequence[Factor]) -> None:
        for each in missing:
            note = f"{request.backbone} {request.registers} has no {_field(each)}: it takes part once, as it is"
            if request.registers != NONE and note not in self.notes:
                self.notes.append(note)


def _listed(text: str, kind: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(names(text)))
    if not found:
        raise UserError(f"--{kind} names nothing", f"write --{kind} A,B")
    return found


def _split(text: str) -> Iterator[str]:
    """The parts between commas that are in no bracket and no quoted string."""
    depth, start, position = 0, 0, 0
    while position < len(text):
        character = text[position]
        if character == '"':
            position = _end_of_string(text, position)
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth <= 0:
            yield text[start:position]
            start = position + 1
        position += 1
    yield text[start:]


def _end_of_string(text: str, start: int) -> int:
    """Where a JSON string ends that begins here; the same place where it is none."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[1] - 1
    except json.JSONDecodeError:
        return start


def _field(each: Factor) -> str:
    return each[0].partition("=")[0].strip()


def _has(fields: Mapping[str, Any] | None, each: Factor) -> bool:
    """Whether a register configuration has the field that a factor changes."""
    *parents, leaf = _field(each).split(".")[1:]
    place: Any = fields
    for name in parents:
        place = place.get(name) if isinstance(place, Mapping) else None
    return isinstance(place, Mapping) and leaf in place


def _changed(request: Request, changes: Sequence[str]) -> Request:
    return replace(request, changes=(*request.changes, *changes))


def _is_in_encoder(preset: str) -> bool:
    return preset in PRESETS and "encoder" in PRESETS[preset].stages
