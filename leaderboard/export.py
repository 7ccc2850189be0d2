"""The board as files that any web server can hand out, or none: plain HTML, pictures and Parquet."""

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import duckdb

from harness.database import DATABASE, rebuild, snapshot
from harness.errors import UserError, disk_error
from leaderboard.export_geneval import page_of_geneval
from leaderboard.export_pages import first_page, page_of_claims, page_of_data, page_of_published, pages_of_boards
from leaderboard.export_runs import pages_of_runs, shown_runs

# By this file a folder is known as an export, which the next one may replace.
MARKER: Final = "export.json"
_MARK: Final = {"kind": "dsr-bench board", "version": 1}


def export(results: Path, directory: Path) -> Path:
    """Rebuild the database, and write its board into a directory, which is there whole or as it was; returns it.

    Equal records give equal bytes.  Raises UserError where the directory holds anything but an earlier export.
    """
    if not results.is_dir():
        raise UserError(f"there is no folder {results} with results", "name the one that has them by --results")
    directory = directory.resolve()
    _require_ours(directory)
    rebuild(results)
    with contextlib.closing(snapshot(results / DATABASE)) as database:
        database.execute("SET threads = 1")  # sums over several threads differ in their last digits
        database.execute("SET TimeZone = 'UTC'")
        with _in_place_of(directory) as part:
            _write(database, results, part)
    return directory


def _write(database: duckdb.DuckDBPyConnection, results: Path, folder: Path) -> None:
    tables = _write_tables(database, folder / "data")
    runs = shown_runs(database)
    written = {
        "index.html": first_page(database, runs),
        "geneval.html": page_of_geneval(database),
        "claims.html": page_of_claims(database, runs),
        "published.html": page_of_published(database),
        "data.html": page_of_data(database, tables),
        MARKER: (json.dumps(_MARK, indent=1) + "\n").encode(),
    }
    pages = [written.items(), pages_of_boards(database, runs), pages_of_runs(database, runs, results)]
    for each in pages:
        for name, content in each:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)


def _write_tables(database: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, int]:
    """Every table as Parquet; returns how many rows each has."""
    folder.mkdir()
    names = database.execute("SELECT table_name FROM information_schema.tables ORDER BY table_name").fetchall()
    counts = {}
    for (name,) in names:
        target = str(folder / f"{name}.parquet").replace("'", "''")
        database.execute(f"COPY (SELECT * FROM {name} ORDER BY ALL) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
        (counts[name],) = database.execute(f"SELECT count(*) FROM {name}").fetchall()[0]
    return counts


def _require_ours(directory: Path) -> None:
    """Raises UserError unless a directory is not there, is empty, or is an earlier export."""
    try:
        is_free = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
        mark = json.loads((directory / MARKER).read_bytes()) if not is_free else _MARK
    except (FileNotFoundError, NotADirectoryError, ValueError):
        mark = None
    except OSError as error:
        raise disk_error(directory, error) from error
    if not (isinstance(mark, dict) and mark.get("kind") == _MARK["kind"]):
        raise UserError(
            f"{directory} is there already, and is no board that was exported here",
            "name a new folder by --export, or an earlier export: only that is replaced",
        )


@contextlib.contextmanager
def _in_place_of(directory: Path) -> Iterator[Path]:
    """A new folder beside a directory, which takes its place when all went well, and goes when not."""
    token = secrets.token_hex(4)
    part = directory.with_name(f".{directory.name}.{token}.part")
    old = directory.with_name(f".{directory.name}.{token}.old")
    try:
        part.mkdir(parents=True)
        yield part
        if directory.exists():
            directory.rename(old)
        try:
            part.rename(directory)
        except OSError:
            if old.exists():
                old.rename(directory)
            raise
    except OSError as error:
        raise disk_error(directory, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
