"""What git knows of the results: which files are committed, and what a branch does to them (no torch)."""

import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.contributing.places import owner_of
from harness.contributing.verdict import Fault
from harness.errors import UserError
from harness.withdrawals import WITHDRAWN, Withdrawal

FOREVER: Final = ("measured/", "evaluations/", "published/", "bench/", f"{WITHDRAWN}/")
USUAL_BASES: Final = ("origin/main", "main")
_SAID: Final = {"M": "changed", "D": "deleted or renamed", "T": "made another kind of file"}
_LONGEST_SECONDS: Final = 120


@dataclass(frozen=True)
class History:
    """The checkout that the results lie in.  `base` is the commit that the branch left, None where there is none."""

    results: Path
    tracked: frozenset[str]
    base: str | None

    @property
    def committed(self) -> frozenset[str]:
        """The results that were there at the base, by their paths below the results."""
        if self.base is None:
            return frozenset()
        listed = _git(self.results, "ls-tree", "-r", "-z", "--name-only", self.base, "--", ".")
        return frozenset(filter(None, (listed or "").split("\0")))

    def sha256_at_base(self, name: str) -> str | None:
        """The digest of a file's bytes at the base; None where it was not there."""
        done = _run(self.results, "cat-file", "blob", f"{self.base}:./{name}")
        return hashlib.sha256(done.stdout).hexdigest() if self.base and done.returncode == 0 else None

    def unknown_commits(self, commits: Iterable[str]) -> set[str]:
        """Those of the commits that this history does not have."""
        wanted = sorted(set(commits))
        told = _run(self.results, "cat-file", "--batch-check", given="\n".join(wanted)).stdout.decode()
        known = {line.split()[0] for line in told.splitlines() if line.split()[1:2] == ["commit"]}
        return set(wanted) - known


def history_of(results: Path, base: str | None) -> History | None:
    """What git knows of the folder, None outside a checkout.

    `base` is a branch or commit, None for origin/main or main where there is one.  Raises UserError for one that git
    does not know, or that this history has nothing in common with.
    """
    if not results.is_dir():
        return None
    listed = _git(results, "ls-files", "-z", "--", ".")
    if listed is None:
        if base is not None:
            raise UserError(f"{results} lies in no git checkout: nothing is compared with {base}", "leave --base out")
        return None
    return History(results, frozenset(filter(None, listed.split("\0"))), _left(results, base))


def faults_of_history(history: History, withdrawn: Mapping[str, Withdrawal]) -> Iterator[Fault]:
    """Every result of the base that is no longer what it was; `withdrawn` are withdrawals by their record's path."""
    if history.base is None:
        return
    told = _git(
        *(history.results, "diff", "--no-ext-diff", "--no-textconv", "--no-renames", "--relative"),
        *("--name-status", "-z", history.base, "--", "."),
    )
    words = (told or "").split("\0")
    for kind, name in zip(words[::2], words[1::2], strict=False):
        if kind not in _SAID or not name.startswith(FOREVER):
            continue
        if kind == "D" and _may_go(history, name, withdrawn.get(owner_of(name))):
            continue
        shown = ascii(name)[1:-1]
        remedy = f"bring it back (git checkout {history.base[:12]} -- {shown}), and withdraw a record that is wrong"
        yield Fault(shown, "append-only", f"a committed result was {_SAID[kind]}: results are never", remedy, name)


def _may_go(history: History, name: str, withdrawal: Withdrawal | None) -> bool:
    """Whether a file is that of a withdrawn record, or lay beside it."""
    if withdrawal is None:
        return False
    return owner_of(name) != name or history.sha256_at_base(name) == withdrawal.sha256


def _left(results: Path, base: str | None) -> str | None:
    """The commit that this branch and the base have in common."""
    for name in [base] if base is not None else USUAL_BASES:
        if name.startswith("-") or _git(results, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") is None:
            continue
        common = _git(results, "merge-base", name, "HEAD")
        if common is not None:
            return common.strip()
        if base is not None:
            problem = f"{base} and this branch have no commit in common in this history"
            raise UserError(problem, "fetch all of it: git fetch --unshallow (in CI fetch-depth: 0)")
    if base is not None:
        raise UserError(f"git knows no branch or commit {base!r}", "fetch it: git fetch origin main")
    return None


def _git(results: Path, *words: str) -> str | None:
    """What git prints; None where it fails, or is not there."""
    done = _run(results, *words)
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None


def _run(results: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", "-c", "core.quotePath=false", "-c", "core.fsmonitor=false", *words],
            cwd=results,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            input=given.encode(),
            capture_output=True,
            timeout=_LONGEST_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return subprocess.CompletedProcess(words, 1, b"", b"")
