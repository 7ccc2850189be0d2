"""Files of one folder, made once: several processes share the work, and a killed one leaves no lock behind."""

import contextlib
import errno
import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from harness.errors import disk_error
from harness.progress import Progress, say


class Piece(Protocol):
    """A part of the work, of `len` things, with a number of its own."""

    @property
    def index(self) -> int: ...

    def __len__(self) -> int: ...

    def is_there(self) -> bool:
        """Whether it has been made; raises UserError where it is damaged."""


PieceT = TypeVar("PieceT", bound=Piece)


def make_missing(
    place: Path, missing: Sequence[PieceT], make: Callable[[PieceT], None], progress: Progress, things: str
) -> None:
    """Make what no other process is at work on; then wait for the others, and do what they leave undone.

    `make` advances the progress by what it does; what others made is counted here.  Raises UserError where nothing can
    be written in `place`.
    """
    with _lock_file(place) as lock:
        left = list(missing)
        for wait in (False, True):
            if wait and left:
                say(f"waiting for another process, which encodes {sum(map(len, left))} of these {things}")
            for piece in tuple(left):
                with _claim(lock, piece.index, wait=wait) as is_ours:
                    if not is_ours:
                        continue
                    if piece.is_there():
                        progress.advance(len(piece))
                    else:
                        make(piece)
                left.remove(piece)


def _lock_file(place: Path) -> BinaryIO:
    try:
        return (place / "lock").open("ab")
    except OSError as error:
        raise disk_error(place, error) from error


@contextmanager
def _claim(lock: BinaryIO, index: int, *, wait: bool) -> Iterator[bool]:
    """Whether this process has the piece to itself; one byte of the lock file stands for it.

    A lock ends with its process, however that ends.  Where a disk has no locks, every process has every piece: double
    work, and the same bytes.
    """
    is_ours = True
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, index)
    except OSError as error:
        is_ours = error.errno not in (errno.EACCES, errno.EAGAIN)
    try:
        yield is_ours
    finally:
        with contextlib.suppress(OSError):
            fcntl.lockf(lock, fcntl.LOCK_UN, 1, index)
