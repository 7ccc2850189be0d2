"""Find what there is of a run to submit: its record, and the files that the record names."""

import difflib
import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from harness import store
from harness.attachments import MOST_BYTES, Attachment, Kind, path_beside, read_whole
from harness.contributing.history import history_of
from harness.errors import UserError, first_few
from harness.records import RunRecord, SampleGrid
from harness.withdrawals import is_withdrawn
from harness.workspace import Workspace

NAMED = 5
LIKE = 0.6

# What a record is never submitted without.
_ALWAYS: Final[tuple[Kind, ...]] = ("norms", "verdicts")

Wanted = Literal["where there are some", "with", "without"]


@dataclass(frozen=True)
class Places:
    """Where records were published, and where runs worked."""

    results: Path
    runs: Path


@dataclass(frozen=True)
class Candidate:
    """A record with all its files by their paths below the results, its own first; `notes` say what a reader should."""

    record: RunRecord
    files: dict[str, bytes]
    notes: tuple[str, ...]

    @property
    def path(self) -> str:
        """The record's own file."""
        return next(iter(self.files))


def find_candidate(run_id: str, places: Places, moments: Wanted) -> Candidate:
    """The newest record of a run that was published, or else the one that it left in its workspace, with its files.

    Raises UserError for an unknown run, a withdrawn or damaged record, a file that it names and that is not there, and
    moments that are too large.
    """
    origin = _origin(run_id, places)
    record, path = origin.record, store.path_of(Path(), origin.record)
    files = {path.as_posix(): origin.content}
    if record.samples is not None:
        files[path.with_name(record.samples.file).as_posix()] = origin.picture(record.samples)
    for kind in _ALWAYS:
        if (named := record.attachments[kind]) is not None:
            files[path_beside(path, kind).as_posix()] = origin.attachment(kind, named)
    if record.moments is None or moments == "without":
        if moments == "with":
            raise UserError(f"run {run_id} kept no moments: nothing was measured by them", "leave --with-moments out")
        return Candidate(record, files, ("without moments: its distances cannot be recomputed",))
    try:
        files[path_beside(path, "moments").as_posix()] = origin.attachment("moments", record.moments)
    except UserError as error:
        if moments == "with":
            raise
        return Candidate(record, files, (f"without moments, so its distances cannot be recomputed: {error.problem}",))
    _require_small(run_id, record.moments, origin)
    return Candidate(record, files, ())


def published_record(results: Path, named: str) -> Path:
    """The file of a record that is named by itself, or by the id of the one run that it is of.

    Raises UserError where there is neither, and for a run with several records.
    """
    path = Path(named)
    if path.is_file():
        return path
    files = [file for file in store.files(results) if file.stem.endswith(f"-{named}")]
    if not files:
        raise UserError(
            f"there is neither a file {named} nor a record of a run of that id in {results}",
            f"{_nearest(named, _published(results))}name the record's file or its run; --results says where to look",
        )
    if len(files) > 1:
        listed = ", ".join(map(str, sorted(files)))
        raise UserError(f"run {named} has {len(files)} records", f"name the file of one: {listed}")
    return files[0]


def require_merged(results: Path, record: Path) -> None:
    """Raise UserError where git says that a record was never among the results that others have.

    Where there is no history to ask, or the file is no record below the results, nothing is said.
    """
    history = history_of(results, None)
    if history is None:
        return
    committed = history.committed if history.base else history.tracked
    name = os.path.relpath(record.resolve(), results.resolve())
    if name.startswith(os.pardir) or name in committed:
        return
    raise UserError(
        f"{record} was never merged, so that nobody else has it: there is nothing to withdraw",
        f"delete it with what lies beside it: rm {shlex.quote(str(record.with_suffix('')))}.*",
    )


def known_runs(places: Places) -> set[str]:
    """The ids of all runs that have a record."""
    return _published(places.results) | {path.parent.name for path in places.runs.glob("*/record.json")}


@dataclass(frozen=True)
class _Origin:
    """A record as it lies on this machine: published, so that its files may lie beside it, or in a workspace."""

    record: RunRecord
    content: bytes
    published: Path | None
    space: Workspace

    def picture(self, samples: SampleGrid) -> bytes:
        """The sample grid.  Raises UserError where it is not the one that the record names."""
        beside = [] if self.published is None else [self.published.with_name(samples.file)]
        for path in [*beside, self.space.picture]:
            if path.is_file() and hashlib.sha256(content := path.read_bytes()).hexdigest() == samples.sha256:
                return content
        raise UserError(
            f"the sample grid of run {self.record.run_id} is missing: {samples.file}",
            "bring it back beside its record, or make the run anew by its command with --again",
        )

    def attachment(self, kind: Kind, attachment: Attachment) -> bytes:
        """A file that the record names.  Raises UserError where it is nowhere to be found."""
        return read_whole(self.place(kind), attachment)

    def place(self, kind: Kind) -> Path:
        """Where it lies: beside the record, or in the workspace where it was made."""
        own = self.space.attachment(kind)
        beside = None if self.published is None else path_beside(self.published, kind)
        return beside if beside is not None and beside.is_file() else own


def _published(results: Path) -> set[str]:
    return {path.stem.rpartition("-")[2] for path in store.files(results)}


def _origin(run_id: str, places: Places) -> _Origin:
    known = known_runs(places)
    if run_id not in known:
        raise _unknown(run_id, known, places)
    space = Workspace(places.runs / run_id)
    files = [path for path in store.files(places.results) if path.stem.endswith(f"-{run_id}")]
    if not files:
        record = space.finished()
        assert record is not None, "the workspace of a known run"
        return _Origin(record, space.record.read_bytes(), None, space)
    newest = max(files, key=lambda path: path.name)
    if is_withdrawn(places.results, newest):
        raise UserError(f"{newest} was withdrawn", "make the run anew: its command with --again")
    found = store.read_in_place(places.results, newest)
    if isinstance(found, store.Problem):
        raise UserError(f"{newest} is no valid record: {found.reason}", "bring back what the run wrote")
    return _Origin(found.record, newest.read_bytes(), newest, space)


def _unknown(run_id: str, known: set[str], places: Places) -> UserError:
    here = f"known: {first_few(sorted(known), NAMED)}" if known else "no run has a record yet"
    return UserError(
        f"there is no run {run_id!r} in {places.results} nor in {places.runs}",
        f"{_nearest(run_id, known)}{here}; --results and --runs say where to look",
    )


def _nearest(run_id: str, known: set[str]) -> str:
    begin = sorted(each for each in known if run_id and each.startswith(run_id))
    near = begin or difflib.get_close_matches(run_id, sorted(known), n=3, cutoff=LIKE)
    return f"did you mean {' or '.join(near[:3])}? " if near else ""


def _require_small(run_id: str, attachment: Attachment, origin: _Origin) -> None:
    if attachment.size <= MOST_BYTES["moments"]:
        return
    from harness.moment_files import read_moments

    held = read_moments(origin.place("moments"), attachment)
    sizes = ", ".join(f"{each.described.words()}: {_mebibytes(each.size)}" for each in held)
    raise UserError(
        f"the moments of run {run_id} are too large, {_mebibytes(attachment.size)} ({sizes}): "
        f"{_mebibytes(MOST_BYTES['moments'])} are the most",
        "add --without-moments: the record then comes alone",
    )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
