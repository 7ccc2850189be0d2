"""Read a stranger's file: one that is a file of its own, no larger than it may be, and under a name that is text."""

import errno
import os
import stat
from pathlib import Path

from pydantic import ValidationError

LONGEST_PLACE = 120


class NotPlainError(Exception):
    """Why a file is not read, in words, and by which rule of `validate`."""

    def __init__(self, reason: str, rule: str = "schema") -> None:
        super().__init__(reason)
        self.reason = reason
        self.rule = rule


def read_plain(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file.  Nothing is followed or waited for, and no more than `most_bytes` are taken into memory.

    Raises NotPlainError for a link, a device, a file that is larger, cannot be read, or whose name is not UTF-8.
    """
    try:
        os.fspath(path).encode()
        size, content = _read(path, most_bytes)
    except UnicodeEncodeError as error:
        raise NotPlainError("its name is not UTF-8", "name") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise NotPlainError(_NOT_ITS_OWN, "place") from error
        raise NotPlainError(reason_of(error)) from error
    if size > most_bytes:
        raise NotPlainError(f"it has {size:,} bytes, and may have {most_bytes:,}", "size")
    return content


def _read(path: Path, most_bytes: int) -> tuple[int, bytes]:
    """How large a file is, and its bytes where they are no more than that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    told = os.fstat(descriptor)
    if not stat.S_ISREG(told.st_mode):
        os.close(descriptor)
        raise NotPlainError(_NOT_ITS_OWN, "place")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(most_bytes + 1) if told.st_size <= most_bytes else b""
    return max(told.st_size, len(content)), content


_NOT_ITS_OWN = "it is a link or no plain file: a record is a file of its own"


def reason_of(error: ValidationError | OSError) -> str:
    """Why a file is not what it should be, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    # Names of fields may come from the file, with whatever is in them.
    place = ascii(".".join(str(part) for part in first["loc"]))[1:-1][:LONGEST_PLACE]
    return f"{place}: {first['msg']}" if place else str(first["msg"])
