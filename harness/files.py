"""Put a file in its place whole or not at all."""

import contextlib
import hashlib
import json
import mmap
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError, disk_error

if TYPE_CHECKING:
    import numpy.typing as npt


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes, 64 hexadecimal digits.  Raises UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise disk_error(path, error) from error


def read_settings(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file of somebody's, such as `config.json`.

    Raises UserError where it is not there, for which `remedy` says what to do, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"the folder {path.parent} holds no {path.name}", remedy) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}", "fetch it anew") from error
    except OSError as error:
        raise disk_error(path, error) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object", "fetch it anew")
    return content


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, force it to disk, and rename it into place.

    A reader sees the old file or the new one; a kill at any moment leaves at worst a stray `.part` file.
    Raises UserError where the disk is full, read-only or closed to this user.
    """
    _write_and_place(path, write, os.replace)


def write_new(path: Path, content: bytes) -> None:
    """`write_whole` for bytes that never take another file's place, whoever else writes at the same moment.

    Raises UserError where the file exists, or no file can be made there.
    """

    def write(part: Path) -> None:
        part.write_bytes(content)

    try:
        _write_and_place(path, write, _place_new)
    except FileNotFoundError as error:  # a folder that takes no files, as those of /proc, or was removed meanwhile
        raise _takes_no_file(path.parent) from error


def write_text(path: Path, text: str) -> None:
    """`write_whole` for a text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """`write_whole` for bytes."""

    def write(part: Path) -> None:
        part.write_bytes(content)

    write_whole(path, write)


def write_array(path: Path, array: "npt.NDArray[Any]") -> None:
    """`write_whole` for one numpy array, as `.npy`."""

    def write(part: Path) -> None:
        import numpy as np

        with part.open("wb") as out:
            np.save(out, array)

    write_whole(path, write)


def write_arrays(path: Path, arrays: "Mapping[str, npt.NDArray[Any]]") -> None:
    """`write_whole` for named arrays, as `.npz` without compression."""

    def write(part: Path) -> None:
        import numpy as np

        with part.open("wb") as out:
            np.savez(out, allow_pickle=False, **arrays)

    write_whole(path, write)


def read_array(path: Path, *, mapped: bool = False) -> "npt.NDArray[Any]":
    """What `write_array` wrote, in memory or mapped from disk.  Raises UserError where the file is damaged."""
    import numpy as np

    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged: {error}", "delete it: the same command makes it again") from error
    except OSError as error:
        raise disk_error(path, error) from error
    return array


def release(array: "npt.NDArray[Any]") -> None:
    """Give the pages of a mapped array back to the system: reading all of it needs no more memory than a part."""
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_DONTNEED)


def _write_and_place(path: Path, write: Callable[[Path], None], place: Callable[[Path, Path], None]) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        force_to_disk(part)
        place(part, path)
        force_to_disk(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _place_new(part: Path, path: Path) -> None:
    """Rename a file unless the name is taken.  Raises UserError where it is."""
    try:
        try:
            os.link(part, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            path.open("x").close()
            os.replace(part, path)
    except FileExistsError as error:
        raise UserError(f"{path} exists already, and is never overwritten", "run the command again") from error


def sweep_parts(folder: Path) -> None:
    """Remove what a killed `write_whole` left in `folder`.  Only the folder's one owner may call this."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Raise UserError unless files can be made in `folder`, which is created if it is not there."""
    probe = folder / f".probe.{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise disk_error(folder, error) from error


def require_place(file: Path) -> None:
    """Raise UserError unless a file can be put there, in whose place another file may stand.  Nothing is made."""
    if file.is_dir():
        raise UserError(f"{file} is a folder", f"name a file: {file / 'report.md'}")
    folder = next(each for each in file.absolute().parents if os.path.lexists(each))
    probe = folder / f".probe.{secrets.token_hex(4)}.part"
    try:
        probe.touch()
        probe.unlink()
    except FileNotFoundError as error:
        raise _takes_no_file(folder) from error
    except OSError as error:
        raise disk_error(file, error) from error


def _takes_no_file(folder: Path) -> UserError:
    return UserError(f"no file can be made in {folder}", "choose another folder")


def force_to_disk(path: Path) -> None:
    """Return when a file's content, or a folder's names, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
