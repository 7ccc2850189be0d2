"""Put new files on a new git branch in one commit: the checkout, its index and all that is not committed stay so."""

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError

MAIN = ("origin/main", "main", "HEAD")
_ORDINARY_FILE = "100644"


@dataclass(frozen=True)
class Checkout:
    """A git checkout at `root`, and the commit that new branches start from: that of `start`, a name."""

    root: Path
    start: str
    commit: str

    def holds(self, revision: str, path: str) -> bool:
        """Whether a path is there at a revision."""
        return self._asked("cat-file", "-e", f"{revision}:{path}").returncode == 0

    def has_branch(self, name: str) -> bool:
        """Whether there is such a branch."""
        return self._asked("show-ref", "--verify", "--quiet", f"refs/heads/{name}").returncode == 0

    def require_name(self, name: str) -> None:
        """Raise UserError unless a new branch may be called so."""
        if name.startswith("-") or self._asked("check-ref-format", "--branch", name).returncode:
            raise UserError(f"git allows no branch named {name!r}", "choose another name: --branch NAME")
        if self.has_branch(name):
            raise UserError(
                f"there is a branch {name} already", f"push it, delete it (git branch -D {name}), or add --branch NAME"
            )

    def export(self, folder: str, place: Path) -> None:
        """Write what is committed below a folder into another place."""
        packed = self._done("archive", "--format=tar", self.commit, folder)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            # Python 3.11.0 to 3.11.3 have no filters; a tree of git's names no path outside itself anyway.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(place)  # noqa: S202

    def add_branch(self, name: str, files: Mapping[str, bytes], message: str) -> str:
        """Make a branch whose one commit adds these files, by their paths from the root; returns the commit.

        The branch appears in one step, at the end: an interruption before leaves none.  Raises UserError where git
        refuses, as it does for a person without a name, or for a name that was taken meanwhile.
        """
        with tempfile.TemporaryDirectory() as place:
            index = {"GIT_INDEX_FILE": str(Path(place) / "index")}
            self._done("read-tree", self.commit, settings=index)
            entries = [
                f"{_ORDINARY_FILE} {self._written(content)}\t{path}\0".encode() for path, content in files.items()
            ]
            self._done("update-index", "-z", "--index-info", given=b"".join(entries), settings=index)
            tree = self._line("write-tree", settings=index)
        commit = self._line("commit-tree", tree, "-p", self.commit, "-F", "-", given=message.encode())
        placed = self._asked("update-ref", "-m", "submit", f"refs/heads/{name}", commit, "")
        if placed.returncode:
            raise UserError(f"git makes no branch {name}: {_said(placed.stderr)}", "choose another name: --branch NAME")
        return commit

    def _written(self, content: bytes) -> str:
        """The name of a file's content, as it is: no line ending is changed."""
        return self._line("hash-object", "-w", "--no-filters", "--stdin", given=content)

    def _line(self, *words: str, given: bytes = b"", settings: Mapping[str, str] | None = None) -> str:
        return self._done(*words, given=given, settings=settings).decode().strip()

    def _done(self, *words: str, given: bytes = b"", settings: Mapping[str, str] | None = None) -> bytes:
        done = self._asked(*words, given=given, settings=settings)
        if done.returncode:
            raise _refused(words[0], done.stderr)
        return done.stdout

    def _asked(
        self, *words: str, given: bytes = b"", settings: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        return _git(self.root, *words, given=given, settings=settings)


def find_checkout(place: Path) -> Checkout:
    """The checkout that a folder is in; branches start from main as it was last fetched, or what else there is of it.

    Raises UserError where the folder is in none, or nothing was committed yet.
    """
    found = _git(place, "rev-parse", "--show-toplevel")
    if found.returncode:
        raise UserError(
            f"{place.resolve()} is in no git checkout ({_said(found.stderr)})",
            "clone the repository, and run this inside of it; --results and --runs say where the records are",
        )
    root = Path(os.fsdecode(found.stdout.rstrip(b"\n")))
    for start in MAIN:
        commit = _git(root, "rev-parse", "--verify", "--quiet", f"{start}^{{commit}}")
        if commit.returncode == 0:
            return Checkout(root, start, commit.stdout.decode().strip())
    raise UserError(f"nothing was ever committed in {root}", "clone the repository, and run this inside of it")


def _git(
    place: Path, *words: str, given: bytes = b"", settings: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(
            ["git", *words],
            cwd=place,
            input=given,
            env={**os.environ, "LC_ALL": "C", **(settings or {})},
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError("there is no git on this machine", "install git, or carry the record to one that has it") from (
            error
        )


def _refused(verb: str, said: bytes) -> UserError:
    words = _said(said)
    if "tell me who you are" in said.decode(errors="replace").lower() or "identity" in words.lower():
        return UserError(
            "git does not know who you are, and a commit needs a name",
            'git config user.name "..." and git config user.email "...", then the same command',
        )
    return UserError(f"git {verb} failed: {words}", "mend that, then the same command; no branch was made")


def _said(stderr: bytes) -> str:
    """The line that says what went wrong."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "no reason")
