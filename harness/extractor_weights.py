"""Find the weights of a feature extractor: given by path, in a cache, or fetched; never a file that is not the one."""

import http.client
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError, first_few
from harness.extractors import ExtractorDefinition, WeightsFile
from harness.files import sha256_of, write_whole
from harness.progress import Progress
from harness.released import Released, locate, read_released

FLAG = "--extractor-weights"
BLOCK_BYTES = 2**20
SECONDS = 30


@dataclass(frozen=True)
class VerifiedFile:
    """A file of weights that is here, and its SHA-256."""

    path: Path
    sha256: str


def find_file(wanted: WeightsFile, place: str | None) -> VerifiedFile:
    """The published file: where the user says it is, else in our cache, else fetched into it, whole or not at all.

    What the user names is taken as it is, since its digest goes into every value; what lies in the cache must be the
    published file, each time.  Raises UserError where it is neither here nor to be had, or damaged.
    """
    if place is not None:
        path = _named(wanted, Path(place).expanduser())
        return VerifiedFile(path, sha256_of(path))
    path = cache_folder() / wanted.file
    if not path.is_file():
        write_whole(path, lambda part: _fetch(wanted, path, part))
    return VerifiedFile(path, _required(wanted, path, f"delete {path}: the same command fetches it anew"))


def find_released(definition: ExtractorDefinition, place: str | None) -> Released:
    """The state dict of a network: of a file or a hub id that the user names, else of the hub or its cache.

    Raises UserError where there is none, and what `read_released` raises.
    """
    if place is not None:
        return read_released(locate(place))
    reasons = []
    for source in definition.sources:
        try:
            return read_released(locate(source))
        except UserError as error:
            reasons.append(error.problem)
    raise UserError(
        f"the weights of {definition.name} are not here: {'; '.join(reasons) or 'none are published'}",
        f"fetch {first_few(definition.sources, 2) or 'or make them'} by hand and say {FLAG} PATH",
    )


def cache_folder() -> Path:
    """Where fetched weights are kept, for all runs of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsr-bench" / "extractors"


def _named(wanted: WeightsFile, place: Path) -> Path:
    path = place / wanted.file if place.is_dir() else place
    if not path.is_file():
        raise UserError(f"there is no weights file {path}", f"fetch {wanted.url} and give {FLAG} its path")
    return path


def _required(wanted: WeightsFile, path: Path, remedy: str) -> str:
    """The file's SHA-256.  Raises UserError where it is not the published one."""
    digest = sha256_of(path)
    if digest != wanted.sha256:
        raise UserError(
            f"{path} is damaged or another file: its SHA-256 is {digest[:12]}..., not {wanted.sha256[:12]}...", remedy
        )
    return digest


def _fetch(wanted: WeightsFile, path: Path, part: Path) -> None:
    by_hand = f"fetch {wanted.url} elsewhere and put it at {path}, or say {FLAG} PATH"
    with part.open("wb") as out:
        for block in _blocks(wanted, by_hand):
            out.write(block)
    _required(wanted, part, by_hand)


def _blocks(wanted: WeightsFile, by_hand: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(wanted.url, timeout=SECONDS) as answer:  # noqa: S310 (our own constant)
            total = int(answer.headers.get("Content-Length") or 0)
            with Progress(f"fetching {wanted.file}, bytes", total) as progress:
                while block := answer.read(BLOCK_BYTES):
                    yield block
                    progress.advance(len(block))
    except (OSError, http.client.HTTPException) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise UserError(f"{wanted.file} is not here, and {wanted.url} did not give it: {reason}", by_hand) from error
