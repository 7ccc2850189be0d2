"""Whether texts are what they look like: short, plain, and nothing that a page would obey (no torch)."""

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from harness.contributing.strict_json import texts
from harness.contributing.verdict import Breach

LONGEST_TEXT: Final = 2000

# What plain texts in ASCII have none of: the beginnings of all that is looked for.
_SUSPECT: Final = (b"<", b"\\", b"\x7f", b"script", b"data:", b"file:", b"blob:")
_TAG: Final = re.compile(r"<\s*[/!?]?\s*[a-zA-Z]")
_SCHEME: Final = re.compile(r"(java|vb)script\s*:|\bdata:\w+/|\b(file|blob):\S", re.IGNORECASE)
_OPEN_LINK: Final = re.compile(r"\b(?!https\b)[a-z][a-z0-9+.-]*://", re.IGNORECASE)

# Control characters, those that are not seen or turn a line around, private ones and those that mean nothing.
_UNSEEN: Final = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
MOST_MARKS: Final = 3
_REMEDY: Final = "write plain text"


def breaches_of_texts(content: bytes) -> Iterator[Breach]:
    """What is wrong with the strings of a JSON file that is known to be well-formed, the first of each kind."""
    if _is_plain(content):
        return
    found: dict[str, str] = {}
    for text in texts(json.loads(content)):
        if problem := problem_of_text(text):
            found.setdefault(problem.split(" ")[1], problem)
    yield from (Breach("text", problem, _REMEDY) for problem in found.values())


def _is_plain(content: bytes) -> bool:
    """Whether there is nothing to find: a quick look, as there may be thousands of records."""
    lowered = content.lower()
    if not content.isascii() or any(suspect in lowered for suspect in _SUSPECT):
        return False
    if lowered.count(b"://") > lowered.count(b"https://"):
        return False
    # Without a backslash every second quotation mark ends a string.
    return max(map(len, content.split(b'"')[1::2]), default=0) <= LONGEST_TEXT


def problem_of_text(text: str) -> str:
    """What is wrong with a text, "" where nothing is."""
    shown = ascii(text[:60])
    if len(text) > LONGEST_TEXT:
        return f"a text of {len(text):,} characters begins with {shown}: at most {LONGEST_TEXT:,}"
    unseen = next((c for c in text if unicodedata.category(c) in _UNSEEN and c != "\n"), None)
    if unseen is not None:
        return f"a character that nobody sees, U+{ord(unseen):04X}, is in {shown}"
    if _TAG.search(text):
        return f"an HTML tag is in {shown}"
    if _SCHEME.search(text):
        return f"a link that runs code or leads into a machine is in {shown}"
    if _OPEN_LINK.search(text):
        return f"a link that is not https is in {shown}"
    if _most_marks(text) > MOST_MARKS:
        return f"characters are piled upon each other in {shown}"
    return ""


def _most_marks(text: str) -> int:
    """How many combining marks stand on one character."""
    most = run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        most = max(most, run)
    return most
