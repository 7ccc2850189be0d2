"""Text that strangers wrote, made safe to show: names, notes and paths of records."""

import re
import string
import unicodedata
from typing import Final

MOST = 200
ELLIPSIS: Final = "…"

# Streamlit makes pictures, colours and arrows of :rocket:, :red[...] and ->, and links of addresses, after it has read
# backslashes: only something between their letters keeps them as they were written.  This has no width.
_BREAK: Final = "\u2060"
_MADE_INTO_OTHERS: Final = re.compile(r"(:(?=[\w+/-])|@|\bwww(?=\.)|[<>~-](?=[<>=-]))", re.IGNORECASE)
_PUNCTUATION: Final = re.compile(f"([{re.escape(string.punctuation)}])")
_SPACE: Final = re.compile(r"\s+")
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})
_ISOLATE, _END = "\u2068", "\u2069"


def short(text: str, limit: int = MOST) -> str:
    """Any text in one line of at most `limit` characters, for places that show it as it is: tables, lists, charts.

    Control characters and those that turn the direction of writing go; text that runs from the right is set apart, so
    that it does not take what follows with it.
    """
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    line = _SPACE.sub(" ", "".join(" " if each in "\n\r\t" else each for each in text[: 4 * limit])).strip()
    line = "".join(each for each in line if unicodedata.category(each) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    if len(line) > limit or len(text) > 4 * limit:
        line = line[: limit - 1] + ELLIPSIS
    if any(unicodedata.bidirectional(each) in _RIGHT_TO_LEFT for each in line):
        return f"{_ISOLATE}{line}{_END}"
    return line


def plain(text: str, limit: int = MOST) -> str:
    """`short`, for Streamlit's Markdown: HTML, Markdown, formulas, emoji codes and links stay the letters they are."""
    return _PUNCTUATION.sub(r"\\\1", _MADE_INTO_OTHERS.sub(rf"\1{_BREAK}", short(text, limit)))
