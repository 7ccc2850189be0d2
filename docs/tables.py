"""Write the tables that the code knows into the pages, where a page says `<!-- presets -->` or `<!-- rules -->`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this with each page before it is turned into HTML."""
    for name, table in TABLES.items():
        place = f"<!-- {name} -->"
        if place in markdown:
            markdown = markdown.replace(place, table())
    return markdown


def _presets() -> str:
    from dsr import PRESETS

    rows = ((f"`{name}`", preset.title, preset.source) for name, preset in PRESETS.items())
    return _table(("preset", "what it does", "source"), rows)


def _rules() -> str:
    from harness.contributing.rules import RULES

    return _table(("check", "what must hold"), ((rule.name, rule.says) for rule in RULES))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")


TABLES: Mapping[str, Callable[[], str]] = {"presets": _presets, "rules": _rules}
