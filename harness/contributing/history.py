"""What git knows of the results: which files are committed, and what a branch does to them (no torch)."""

import hashlib
import os
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.contributing.additions import only_adds
from harness.contributing.places import owner_of
from harness.contributing.verdict import Fault
from harness.errors import UserError
from harness.published import PUBLISHED
from harness.store import content_of
from harness.withdrawals import WITHDRAWN, Withdrawal

FOREVER: Final = ("measured/", "evaluations/", "published/", "bench/", f"{WITHDRAWN}/")
USUAL_BASES: Final = ("origin/main", "main")
_SAID: Final = {"M": "changed", "D": "deleted or renamed", "T": "made another kind of file"}
_LONGEST_SECONDS: Final = 120


@dataclass(frozen=True)
class History:
    """The checkout that the results lie in.  `base` is the commit that the branch left, None where there is none.

    `tracked` are the files in git's index, and `committed` those that were there at the base, all by their paths below
    the results, whether there still is such a folder or not.
    """

    results: Path
    tracked: frozenset[str]
    committed: frozenset[str]
    base: str | None

    def at_base(self, name: str) -> bytes | None:
        """A file's bytes at the base; None where it was not there."""
        folder, inside = _place(self.results)
        done = _run(folder, "cat-file", "blob", f"{self.base}:./{inside}{name}")
        return done.stdout if self.base and done.returncode == 0 else None

    def sha256_at_base(self, name: str) -> str | None:
        """The digest of a file's bytes at the base; None where it was not there."""
        content = self.at_base(name)
        return None if content is None else hashlib.sha256(content).hexdigest()

    def unknown_commits(self, commits: Iterable[str]) -> set[str]:
        """Those of the commits that this history does not have."""
        wanted = sorted(set(commits))
        told = _run(_place(self.results)[0], "cat-file", "--batch-check", given="\n".join(wanted)).stdout.decode()
        known = {line.split()[0] for line in told.splitlines() if line.split()[1:2] == ["commit"]}
        return set(wanted) - known


def history_of(results: Path, base: str | None) -> History | None:
    """What git knows of the folder, None outside a checkout.  The folder need not be there any more.

    `base` is a branch or commit, None for origin/main or main where there is one.  Raises UserError for one that git
    does not know, or that this history has nothing in common with.
    """
    folder, inside = _place(results)
    tracked = _listed(results, "ls-files", "-z", "--", f"./{inside}")
    if tracked is None:
        if base is not None:
            raise UserError(f"{results} lies in no git checkout: nothing is compared with {base}", "leave --base out")
        return None
    left = _left(folder, base)
    committed = _listed(results, "ls-tree", "-r", "-z", "--name-only", left, "--", f"./{inside}") if left else None
    return History(results, tracked, committed or frozenset(), left)


def faults_of_history(history: History, withdrawn: Mapping[str, Withdrawal]) -> Iterator[Fault]:
    """Every result of the base that is no longer what it was; `withdrawn` are withdrawals by their record's path.

    Raises UserError where git cannot say.
    """
    if history.base is None:
        return
    folder, inside = _place(history.results)
    told = _git(
        *(folder, "diff", "--no-ext-diff", "--no-textconv", "--no-renames", "--relative"),
        *("--name-status", "-z", history.base, "--", f"./{inside}"),
    )
    if told is None:
        raise UserError(f"git cannot compare {history.results} with {history.base[:12]}", "see what git diff says")
    words = told.split("\0")
    for kind, path in zip(words[::2], words[1::2], strict=False):
        name = path.removeprefix(inside)
        if kind not in _SAID or not path.startswith(inside) or not name.startswith(FOREVER):
            continue
        if kind == "D" and _may_go(history, name, withdrawn.get(owner_of(name))):
            continue
        if kind == "M" and name.startswith(f"{PUBLISHED}/") and _only_grew(history, name):
            continue
        place = shlex.quote(str(history.results / name))
        remedy = f"bring it back (git checkout {history.base[:12]} -- {place}), and withdraw a record that is wrong"
        yield Fault(name, "append-only", f"a committed result was {_SAID[kind]}: results are never", remedy)


def _place(results: Path) -> tuple[Path, str]:
    """The nearest folder that there is, in which git can be asked, and how the paths of results begin there."""
    folder = results
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    inside = results.relative_to(folder).as_posix()
    return folder, "" if inside == "." else f"{inside}/"


def _listed(results: Path, *words: str) -> frozenset[str] | None:
    """The paths below the results that git lists, None where it fails."""
    folder, inside = _place(results)
    listed = _git(folder, *words)
    return None if listed is None else frozenset(name.removeprefix(inside) for name in listed.split("\0") if name)


def _may_go(history: History, name: str, withdrawal: Withdrawal | None) -> bool:
    """Whether a file is that of a withdrawn record, or lay beside it."""
    if withdrawal is None:
        return False
    return owner_of(name) != name or history.sha256_at_base(name) == withdrawal.sha256


def _only_grew(history: History, name: str) -> bool:
    """Whether a file of what others published has new figures or claims, and the old ones as they were."""
    before, after = history.at_base(name), content_of(history.results / name)
    return before is not None and isinstance(after, bytes) and only_adds(before, after)


def _left(folder: Path, base: str | None) -> str | None:
    """The commit that this branch and the base have in common."""
    for name in [base] if base is not None else USUAL_BASES:
        if name.startswith("-") or _git(folder, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") is None:
            continue
        common = _git(folder, "merge-base", name, "HEAD")
        if common is not None:
            return common.strip()
        if base is not None:
            problem = f"{base} and this branch have no commit in common in this history"
            raise UserError(problem, "fetch all of it: git fetch --unshallow (in CI fetch-depth: 0)")
    if base is not None:
        raise UserError(f"git knows no branch or commit {base!r}", "fetch it: git fetch origin main")
    return None


def _git(folder: Path, *words: str) -> str | None:
    """What git prints; None where it fails, or is not there."""
    done = _run(folder, *words)
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None


def _run(folder: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", "-c", "core.quotePath=false", "-c", "core.fsmonitor=false", *words],
            cwd=folder,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            input=given.encode(),
            capture_output=True,
            timeout=_LONGEST_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return subprocess.CompletedProcess(words, 1, b"", b"")
