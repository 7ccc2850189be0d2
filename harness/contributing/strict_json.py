"""Whether bytes are JSON in which nothing is said twice, hidden or endless: what parsers wave through (no torch)."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

MOST_BYTES: Final = 2 * 2**20
DEEPEST, LONGEST_STRING, MOST_DIGITS = 24, 100_000, 25

# A string, or one of the four characters that nest.
_PARTS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{\]}]', re.DOTALL)


class _RefusedError(ValueError):
    """What a hook of the parser found."""


def problem_of(content: bytes) -> str:
    """What is wrong with a file that should be one JSON object, in words; "" where nothing is."""
    if len(content) > MOST_BYTES:
        return f"it has {len(content):,} bytes, and a record has at most {MOST_BYTES:,}"
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "it begins with a byte order mark, and JSON has none"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 (byte {error.start})"
    if any(depth > DEEPEST for depth in _depths(content)):
        return f"it is nested more than {DEEPEST} levels deep"
    return _problem_of_text(text)


def _problem_of_text(text: str) -> str:
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_int=_int, parse_float=_float, parse_constant=_constant)
    except _RefusedError as error:
        return str(error)
    except json.JSONDecodeError as error:
        return f"it is not JSON: {error.msg.lower()} in line {error.lineno}"
    if not isinstance(value, dict):
        return "it is no JSON object"
    long = next((text for text in texts(value) if len(text) > LONGEST_STRING), None)
    return "" if long is None else f"a string in it has {len(long):,} characters: at most {LONGEST_STRING:,}"


def texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inside in value.items():
            yield key
            yield from texts(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from texts(inside)


def _depths(content: bytes) -> Iterator[int]:
    """How deep each opening bracket outside strings leads."""
    depth = 0
    for part in _PARTS.finditer(content):
        opening = part.group()[:1]
        depth += (opening in b"[{") - (opening in b"]}")
        yield depth


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _RefusedError(f"the key {twice[:40]!a} stands twice in one object")
    return found


def _int(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise _RefusedError(f"a whole number has {len(digits):,} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if len(digits) > 2 * MOST_DIGITS or value in (float("inf"), float("-inf")):
        raise _RefusedError(f"the number {digits[:20]} is too long or too large")
    return value


def _constant(name: str) -> float:
    raise _RefusedError(f"{name} is no number of JSON: what was not measured is left out")
