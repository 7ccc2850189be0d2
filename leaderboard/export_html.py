"""Plain HTML: documents, tables and numbers that any browser shows from a file, in light and in dark."""

import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from leaderboard.text import short

MISSING: Final = "–"

STYLE: Final = """\
:root { color-scheme: light dark; --line: #c8c8c8; --quiet: #5a5a5a; --link: #0b57a4; --band: #f2f2f2; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --quiet: #a8a8a8; --link: #7db4f0; --band: #232629; } }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; background: Canvas;
  color: CanvasText; overflow-wrap: anywhere; }
a { color: var(--link); }
nav a { display: inline-block; padding: .3rem .8rem .3rem 0; }
h1, h2 { line-height: 1.2; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top;
  overflow-wrap: normal; }
th { background: var(--band); }
th button { all: unset; cursor: pointer; font-weight: bold; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.quiet, figcaption { color: var(--quiet); }
.heat { display: block; margin: -.3rem -.6rem; padding: .3rem .6rem; }
figure { margin: 1rem 0; overflow-x: auto; }
figure img { max-width: 100%; min-width: 12rem; image-rendering: pixelated; }
figure svg { max-width: 100%; height: auto; min-width: 24rem; }
pre { overflow: auto; max-height: 30rem; background: var(--band); padding: .6rem; white-space: pre-wrap; }
"""

# What has no script can be read as it is; what has one can be sorted by a click or a key on a column's head.
SORTING: Final = """\
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.classList.contains("number") ? NaN
      : cell.textContent;
  };
  const compare = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const absent = row => Number.isNaN(value(row, column));
      body.append(...[...body.rows].sort((a, b) =>
        absent(a) - absent(b) || (absent(a) ? 0 : sign * compare(value(a, column), value(b, column)))));
    });
  });
}
"""


@dataclass(frozen=True)
class Cell:
    """What stands in a table, as HTML; a number sorts by `value`, None where there is none."""

    content: str
    is_number: bool = False
    value: float | None = None

    @property
    def html(self) -> str:
        if not self.is_number:
            return f"<td>{self.content}</td>"
        value = "" if self.value is None else f' data-value="{self.value!r}"'
        return f'<td class="number"{value}>{self.content}</td>'


def escaped(text: Any, limit: int = 200) -> str:
    """Anything that somebody wrote, in one line that is nothing but text."""
    return html.escape(short(str(text), limit))


def words(text: Any) -> Cell:
    """A cell of text; NULL is empty."""
    return Cell("" if is_absent(text) else escaped(text))


def number(value: Any, form: str = ".4g") -> Cell:
    """A cell with a number, or with a dash where nothing was measured: never 0 in its place."""
    if is_absent(value):
        return Cell(MISSING, is_number=True)
    return Cell(format(value, form), is_number=True, value=float(value))


def is_absent(value: Any) -> bool:
    """Whether a value of a data frame stands for none."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value) in ("<NA>", "NaT")


def link(address: str, text: Any) -> str:
    """A link to a file of the export, or to a page that a record names."""
    return f'<a href="{html.escape(address)}">{escaped(text)}</a>'


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str) -> str:
    """Rows that can be sorted by every column; `caption` says what they are to those who do not see them."""
    head = "".join(f'<th scope="col">{escaped(each)}</th>' for each in heads)
    body = "\n".join(f"<tr>{''.join(cell.html for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escaped(caption)}">'
        f'<table class="sortable"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def preformatted(stored: str) -> str:
    """Stored JSON in full, indented."""
    return f"<pre>{html.escape(json.dumps(json.loads(stored), indent=1))}</pre>"


def document(title: str, body: str, root: str = "") -> bytes:
    """A whole page; `root` leads from its folder to that of the first page."""
    menu = {
        "Leaderboard": "index.html",
        "Text to image": "geneval.html",
        "Claims": "claims.html",
        "Published": "published.html",
        "Data": "data.html",
    }
    links = "\n".join(link(root + address, name) for name, address in menu.items())
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f"<nav>\n{links}\n</nav>\n<main>\n<h1>{escaped(title)}</h1>\n{body}\n</main>\n"
        f"<script>\n{SORTING}</script>\n</body>\n</html>\n"
    ).encode()
