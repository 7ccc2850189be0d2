"""What others published, as the database has it: what was edited since `index` does not count before the next one."""

import json
from pathlib import Path
from typing import Any, Final

import duckdb

from harness.claims import Claim
from harness.published import PUBLISHED, Figure, Published, Source

# Between the parts of what is one text in a table.
BETWEEN: Final = "; "

_OF_SOURCE: Final = ("source", "title", "arxiv", "url")


def read(database: duckdb.DuckDBPyConnection) -> Published:
    """Every quoted figure and every claim that `index` accepted, and why it left files out."""
    figures, claims = _rows(database, "published"), _rows(database, "claims")
    named = {row["source"]: {name: row[name] for name in _OF_SOURCE} for row in (*figures, *claims)}
    sources = [
        Source(
            name=name,
            title=cells["title"],
            arxiv=cells["arxiv"],
            url=cells["url"],
            figures=tuple(_figure(row) for row in figures if row["source"] == name),
        )
        for name, cells in sorted(named.items())
    ]
    problems = database.execute(
        "SELECT path, reason FROM problems WHERE starts_with(path, $1) ORDER BY path", [f"{PUBLISHED}/"]
    ).fetchall()
    return Published(
        tuple(sources), tuple(map(_claim, claims)), tuple((Path(path), reason) for path, reason in problems)
    )


def _rows(database: duckdb.DuckDBPyConnection, table: str) -> list[dict[str, Any]]:
    """In the order in which they were put in."""
    found = database.execute(f"SELECT * FROM {table} ORDER BY rowid")
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _figure(row: dict[str, Any]) -> Figure:
    return Figure.model_validate({name: row[name] for name in Figure.model_fields} | {"places": _parts(row["places"])})


def _claim(row: dict[str, Any]) -> Claim:
    """Its test and its setting are JSON in the table."""
    told = {name: row[name] for name in ("id", "text", "source", "place", "note")}
    return Claim.model_validate(
        {
            **told,
            "figures": _parts(row["figures"]),
            "disputed_by": _parts(row["disputed_by"]),
            "test": json.loads(row["test"]),
            "setting": json.loads(row["setting"]),
        }
    )


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split(BETWEEN)) if text else ()
