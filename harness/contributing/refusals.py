"""Which records `index` refused, kept beside the database so that every rebuild leaves them out (no torch)."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.contributing.strict_json import MOST_BYTES
from harness.files import write_text
from harness.plain_files import NotPlainError, read_plain

# A name that git ignores with the database's.
KEPT = ".leaderboard.duckdb.refused.json"
MOST_KEPT_BYTES = 64 * 2**20

# Path below the results -> SHA-256 of the file's bytes, and the reason.
_REFUSALS = TypeAdapter(dict[str, tuple[str, str]])


def keep_refusals(results: Path, refused: Mapping[str, str]) -> None:
    """Keep these instead of those found before: reasons by the paths of records below the results."""
    digests = {path: _sha256(results / path) for path in refused}
    found = {path: (digest, refused[path]) for path, digest in digests.items() if digest is not None}
    if found or (results / KEPT).exists():
        write_text(results / KEPT, json.dumps(found, indent=1, sort_keys=True) + "\n")


def refusals(results: Path) -> dict[Path, str]:
    """Files whose bytes were refused as they are now, with the reasons.  A damaged list is none."""
    try:
        kept = _REFUSALS.validate_json(read_plain(results / KEPT, MOST_KEPT_BYTES))
    except (NotPlainError, ValidationError):
        return {}
    return {results / path: reason for path, (digest, reason) in kept.items() if _sha256(results / path) == digest}


def _sha256(path: Path) -> str | None:
    """The digest of a file's bytes; None for what no reader of records would read."""
    try:
        return hashlib.sha256(read_plain(path, MOST_BYTES)).hexdigest()
    except NotPlainError:
        return None
