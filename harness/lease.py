"""A folder for one owner at a time, on a disk that many machines share: a lock that expires (no torch).

Each owner makes a file with a number of its own, one above the last.  Who made the highest holds the folder, and it is
never deleted but by the next owner: so nobody can take what is held, nor give back what another has taken since.  The
file's time is the owner's last sign of life.  Making a file that must not be there yet is atomic on NFS too; times are
compared with the disk's own clock, not with this machine's.
"""

import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harness.errors import UserError, disk_error
from harness.files import write_bytes
from harness.frozen import Frozen, NonNegativeInt
from harness.processes import ProcessIdentity, this_process

EXPIRES_AFTER = 90.0
RENEWED_EVERY = 10.0

# A lease with this time has been given back, which needs no room on most disks.
GIVEN_BACK = 0.0


class Taken(UserError):  # noqa: N818 (an outcome like any other, for who asks whether there is work to do)
    """Somebody else holds the folder."""


class Owner(Frozen):
    """Who holds a folder.  `job` is a launcher's name for it, empty for a person's; `restart` counts its requeues."""

    process: ProcessIdentity
    job: str = ""
    restart: NonNegativeInt = 0

    def words(self) -> str:
        """For a person."""
        return f"{self.process.words()}{f' ({self.job})' if self.job else ''}"


@dataclass(frozen=True)
class Holder:
    """The last to have held a folder; `owner` is None where its name could not be written, as on a full disk.

    `age` are the seconds since its last sign of life.
    """

    owner: Owner | None
    age: float
    is_given_back: bool

    @property
    def is_alive(self) -> bool:
        """Whether the folder is held: not given back, not expired, and by nobody who is known to be gone."""
        is_gone = self.owner is not None and self.owner.process.is_gone()
        return not self.is_given_back and self.age < EXPIRES_AFTER and not is_gone

    def words(self) -> str:
        """For a person."""
        return self.owner.words() if self.owner else "another process"


@dataclass(frozen=True)
class Lease:
    """What is held.  It must be renewed more often than `EXPIRES_AFTER`."""

    path: Path

    def renew(self) -> bool:
        """Give a sign of life; False where another has taken over."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return self.is_held()

    def is_held(self) -> bool:
        """Whether nobody has taken over since."""
        return _newest(self.path.parent) == self.path

    def give_back(self) -> None:
        """Let the next one in at once."""
        with contextlib.suppress(OSError):  # a disk that does not take this either lets it expire
            if self.is_held():
                os.utime(self.path, (GIVEN_BACK, GIVEN_BACK))


def take(folder: Path, job: str = "", restart: int = 0) -> Lease:
    """Hold a folder, which is made if it is not there.

    Raises Taken where somebody holds it, UserError where it cannot be written.
    """
    owner = Owner(process=this_process(), job=job, restart=restart)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            last = _newest(folder)
            if last is not None:
                _require_free(folder, last, owner)
            path = folder / _name(1 if last is None else _number(last) + 1)
            if _make(path) and _newest(folder) == path:
                _sign(path, owner)
                _drop_older(path)
                return Lease(path)
    except OSError as error:
        raise disk_error(folder, error) from error


def holder(folder: Path, now: float | None = None) -> Holder | None:
    """Who holds a folder, or held it last; None where nobody ever did.

    `now` is the time on the disk's clock, as `disk_time` gives it, for whoever asks about many folders.
    """
    path = _newest(folder)
    if path is None:
        return None
    try:
        touched = path.stat().st_mtime
        owner = _read(path)
    except FileNotFoundError:
        return holder(folder, now)  # another has just taken over
    return Holder(
        owner,
        age=(disk_time(folder) if now is None else now) - touched,
        is_given_back=touched == GIVEN_BACK,
    )


def disk_time(folder: Path) -> float:
    """What the clock says that gives files in this folder their times; this machine's where nothing can be written."""
    probe = folder / f".clock.{secrets.token_hex(4)}.part"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def is_lease(path: Path) -> bool:
    """Whether a file is one of these."""
    return path.name.startswith("lease-")


def _require_free(folder: Path, last: Path, owner: Owner) -> None:
    found = holder(folder)
    if found is None or not found.is_alive or _is_earlier_self(found.owner, owner):
        return
    silence = f", silent for {found.age:.0f} s" if found.age > 2 * RENEWED_EVERY else ""
    raise Taken(
        f"run {folder.name} is being worked on by {found.words()}{silence}",
        f"wait for it: the same command then prints its result (who is silent for {EXPIRES_AFTER:.0f} s is taken for "
        f"dead; if you are sure, delete {last})",
    )


def _is_earlier_self(found: Owner | None, owner: Owner) -> bool:
    """A job that starts again has ended before."""
    return found is not None and bool(owner.job) and found.job == owner.job and found.restart < owner.restart


def _newest(folder: Path) -> Path | None:
    try:
        return max((path for path in folder.glob("lease-*.json")), default=None)
    except FileNotFoundError:
        return None


def _name(number: int) -> str:
    return f"lease-{number:09d}.json"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("lease-"))


def _make(path: Path) -> bool:
    """Whether it was not there yet."""
    try:
        path.open("x").close()
    except FileExistsError:
        return False
    return True


def _sign(path: Path, owner: Owner) -> None:
    """Say who holds it; on a full disk it is held without a name."""
    with contextlib.suppress(UserError):
        write_bytes(path, owner.model_dump_json().encode())


def _read(path: Path) -> Owner | None:
    try:
        return Owner.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def _drop_older(path: Path) -> None:
    for older in path.parent.glob("lease-*.json"):
        if older < path:
            older.unlink(missing_ok=True)
