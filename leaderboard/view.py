"""The database as every page sees it: in memory, and read anew once it was rebuilt."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import duckdb
import streamlit as st

from harness.database import DATABASE, snapshot
from harness.database_rows import RUNS, WITHDRAWN
from harness.errors import UserError, disk_error
from harness.published import CLAIM_COLUMNS

INDEX = "run `python -m harness index`, then load this page again"


@dataclass(frozen=True)
class View:
    """One state of the results: a cursor of this visitor's own, the folder, and the digest of the database's bytes.

    What is computed from a view is cached by its `digest`: equal databases give equal answers.
    """

    database: duckdb.DuckDBPyConnection
    results: Path
    digest: str


def opened(results: Path) -> View | None:
    """The results as they are now; None where there is no database yet.

    Raises UserError where the file is no database, or that of another version of the harness.
    """
    path = results / DATABASE
    try:
        stamp = path.stat()
        digest = _digest(str(path), stamp.st_mtime_ns, stamp.st_ino)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(Path(path.name), error) from error
    return View(_snapshot(str(path), digest).cursor(), results, digest)


@st.cache_data(max_entries=4, show_spinner=False)
def _digest(path: str, modified: int, inode: int) -> str:  # noqa: ARG001
    """A rebuilt file has another time or inode, and is read anew."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@st.cache_resource(max_entries=2, show_spinner=False)
def _snapshot(path: str, digest: str) -> duckdb.DuckDBPyConnection:  # noqa: ARG001
    try:
        connection = snapshot(Path(path))
    except duckdb.Error as error:
        # DuckDB's own words name the folder, which is no business of the public's.
        raise UserError(f"{DATABASE} cannot be read: it is damaged, or no database", INDEX) from error
    wanted = (("runs", RUNS), ("newest", RUNS), ("withdrawn", WITHDRAWN), ("claims", CLAIM_COLUMNS))
    for table, columns in wanted:
        found = connection.execute("SELECT column_name FROM information_schema.columns WHERE table_name = $1", [table])
        if missing := set(columns) - {name for (name,) in found.fetchall()}:
            raise UserError(f"{DATABASE} is of another version: {table} has no {', '.join(sorted(missing))}", INDEX)
    return connection
