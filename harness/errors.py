"""The user's mistakes: what is wrong, why, and what to do about it."""

import difflib
import errno
from collections.abc import Iterable, Sequence
from pathlib import Path


class UserError(Exception):
    """A mistake that the person at the keyboard can mend.  The command line prints it and exits with 2.

    Our own mistakes are ordinary exceptions, and keep their traceback.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n  -> {self.remedy}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that nobody knows, with the nearest ones that somebody does."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return UserError(f"there is no {kind} named {name!r}", f"{guess}known: {', '.join(names)}")


def first_few(names: Sequence[str], most: int) -> str:
    """The first of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


_DISK_TROUBLE = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some of your quota on that disk",
    errno.EROFS: "the disk is mounted read-only: choose a folder that can be written",
    errno.EACCES: "you have no permission there: choose a folder that can be written",
    errno.EPERM: "you have no permission there: choose a folder that can be written",
    errno.ENOTDIR: "a part of that path is a file, not a folder: choose another folder",
    errno.EEXIST: "a file stands where a folder is wanted: choose another folder",
    errno.EISDIR: "a folder stands where a file is wanted: move it away",
    errno.EFBIG: "the file would be larger than that disk or your limits allow",
    errno.EIO: "the disk does not answer as it should: copy what it still gives elsewhere",
    errno.ESTALE: "the file server was restarted, or the folder is another now: mount it again",
    errno.ETIMEDOUT: "the file server does not answer: try again later",
    errno.ENAMETOOLONG: "that path is too long: choose a shorter one",
}


def disk_error(path: Path, error: OSError) -> Exception:
    """What a failed read or write means to a user; the error itself where it means nothing to them."""
    remedy = _DISK_TROUBLE.get(error.errno or 0)
    if remedy is None:
        return error
    return UserError(
        f"{path}: {error.strerror}",
        f"{remedy} (--runs and --results say where files go); the same command then goes on from where it stopped",
    )
