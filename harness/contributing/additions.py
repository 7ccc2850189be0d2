"""Whether a published file only grew: what was read once stays as it was, and more may be read later (no torch)."""

import json
from collections.abc import Mapping
from typing import Any, Final

# What a source and the file of claims hold more of in time, each entry by its id.
_GROWS: Final = ("figures", "claims")
_ID: Final = "id"


def only_adds(before: bytes, after: bytes) -> bool:
    """Whether all that a published file said before it says still, word for word, and the rest are new entries.

    New figures and claims may stand anywhere among the old ones, whose order stays.  A new field beside them is no
    addition, and what is no JSON object with such entries adds nothing.
    """
    try:
        old, new = json.loads(before), json.loads(after)
    except (ValueError, RecursionError):
        return False
    if not isinstance(old, dict) or not isinstance(new, dict) or old.keys() != new.keys():
        return False
    return all(_spelled(old[name]) == _spelled(new[name]) or _grew(name, old[name], new[name]) for name in old)


def _grew(name: str, old: object, new: object) -> bool:
    """Whether the old entries are among the new ones, unchanged and in their order, each id once."""
    if name not in _GROWS or not isinstance(old, list) or not isinstance(new, list):
        return False
    if not all(isinstance(entry, Mapping) and isinstance(entry.get(_ID), str) for entry in [*old, *new]):
        return False
    known = {entry[_ID] for entry in old}
    kept = [entry for entry in new if entry[_ID] in known]
    return _spelled(kept) == _spelled(old) and len({entry[_ID] for entry in new}) == len(new)


def _spelled(value: Any) -> str:
    """A text in which 1, 1.0 and true differ, and the order of fields does not."""
    return json.dumps(value, sort_keys=True)
