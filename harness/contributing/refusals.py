"""Which records `index` refused, kept beside the database so that every rebuild leaves them out (no torch)."""

import json
from collections.abc import Mapping
from pathlib import Path

from harness.files import sha256_of, write_text

# A name that git ignores with the database's.
KEPT = ".leaderboard.duckdb.refused.json"


def keep_refusals(results: Path, refused: Mapping[str, str]) -> None:
    """Keep these instead of those found before: reasons by the paths of records below the results."""
    found = {
        path: [sha256_of(results / path), reason] for path, reason in refused.items() if (results / path).is_file()
    }
    if found or (results / KEPT).exists():
        write_text(results / KEPT, json.dumps(found, indent=1, sort_keys=True) + "\n")


def refusals(results: Path) -> dict[Path, str]:
    """Files whose bytes were refused as they are now, with the reasons.  A damaged list is none."""
    try:
        kept = json.loads((results / KEPT).read_text(encoding="utf-8"))
        return {results / path: reason for path, (digest, reason) in kept.items() if _is(results / path, digest)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest
