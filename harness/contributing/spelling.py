"""Whether a record says what it says in the types of its schema: no "0", 0.0 or true where 0 is meant (no torch)."""

import json
from collections.abc import Iterator
from typing import Any

from harness.contributing.verdict import Breach
from harness.records import RunRecord

_REMEDY = "submit the file as `run` wrote it, and change nothing by hand"


def breaches_of_spelling(record: RunRecord, content: bytes) -> Iterator[Breach]:
    """What a reader of these bytes, which gave this record, had to guess.

    Fields that an older record lacks are no guess, and the first schema is read by its own rules.
    """
    spelled = record.model_dump_json()
    written = json.loads(content)
    if written.get("schema_version") == 1:
        return
    place = _different(written, json.loads(spelled))
    if place is not None:
        yield Breach("schema", f"{ascii(place)[1:-1][:120]} is not written as a record writes it", _REMEDY)


def _different(written: Any, due: Any, place: str = "") -> str | None:
    """Where the first value stands that is of another type or another value; None where there is none."""
    if type(written) is not type(due):
        return place
    if isinstance(written, dict):
        inner = ((name, value, due[name]) for name, value in written.items() if name in due)
        unknown = next((name for name in written if name not in due), None)
        if unknown is not None:
            return f"{place}.{unknown}".strip(".")
    elif isinstance(written, list):
        if len(written) != len(due):
            return place
        inner = ((str(index), one, other) for index, (one, other) in enumerate(zip(written, due, strict=True)))
    else:
        return None if written == due else place
    found = (_different(one, other, f"{place}.{name}".strip(".")) for name, one, other in inner)
    return next((each for each in found if each is not None), None)
