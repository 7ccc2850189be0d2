"""What lies beside a record, named after it: numbers too many for its JSON (no torch)."""

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from safetensors import SafetensorError

from harness.errors import UserError, disk_error
from harness.files import write_bytes
from harness.frozen import Frozen, PositiveInt

if TYPE_CHECKING:
    import numpy.typing as npt

Kind = Literal["moments", "norms", "verdicts"]

# What may be added to the repository for one run; the norm maps are written so that they fit.
MOST_BYTES: Final[Mapping[Kind, int]] = {"moments": 32 * 2**20, "norms": 2 * 2**20, "verdicts": 2 * 2**20}
# What the name of such a file ends in, after that of its record.
ENDINGS: Final[Mapping[Kind, str]] = {
    "moments": ".moments.safetensors",
    "norms": ".norms.safetensors",
    "verdicts": ".verdicts.jsonl.gz",
}
LONGEST_HEADER: Final = 2**16
_LENGTH_BYTES = 8
_RESTORE = "bring back the file that the run wrote, or submit the record without it"


class Attachment(Frozen):
    """A file beside a record, by the SHA-256 of its bytes and their number.

    "moments" are those of the features that a run's images were judged by, so that anybody can compute its distances
    again; "norms" are the token norms of a few probe images, block by block: safetensors both.  "verdicts" say of each
    prompt's images what was found in them, so that anybody can decide again which are right: JSON lines, packed.
    """

    sha256: str
    size: PositiveInt


@dataclass(frozen=True)
class Tensors:
    """What an attachment holds: arrays by name, and what is said of them."""

    arrays: "Mapping[str, npt.NDArray[Any]]"
    metadata: Mapping[str, str]


def path_beside(record: Path, kind: Kind) -> Path:
    """Where an attachment of the record in that file lies."""
    return record.with_name(f"{record.stem}{ENDINGS[kind]}")


def present(record: Path, kind: Kind, attachment: Attachment | None) -> Path | None:
    """The attachment's file, where the record names one and it is there in the size that the record says."""
    if attachment is None:
        return None
    path = path_beside(record, kind)
    try:
        return path if path.stat().st_size == attachment.size else None
    except OSError:
        return None


def attach(path: Path, arrays: "Mapping[str, npt.NDArray[Any]]", said: tuple[str, str]) -> Attachment:
    """Write an attachment, and return what a record says of it.  Raises UserError where it cannot be written.

    `said` is the one entry of the file's metadata, a name and a text: several would lie in an order of their own in
    every process, and the same run would not give the same bytes.
    """
    from safetensors.numpy import save

    content = save(dict(arrays), dict([said]))
    write_bytes(path, content)
    return attachment_of(content)


def attachment_of(content: bytes) -> Attachment:
    """What a record says of a file of these bytes."""
    return Attachment(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def read_whole(path: Path, attachment: Attachment) -> bytes:
    """The bytes of an attachment.  Raises UserError where the file is not the one that the record names."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is no ordinary file", _RESTORE)
        if found.st_size != attachment.size:
            raise UserError(f"{path} has {found.st_size:,} bytes, and its record says {attachment.size:,}", _RESTORE)
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing, and its record names it", _RESTORE) from error
    except OSError as error:
        raise disk_error(path, error) from error
    if attachment_of(content) != attachment:
        raise UserError(f"{path} is not the file that its record names: their SHA-256 differ", _RESTORE)
    return content


def read_tensors(path: Path, attachment: Attachment) -> Tensors:
    """What an attachment holds.  No code in it is run, and no more memory is taken than the record says it has bytes.

    Raises UserError where the file is not the one that the record names, or no sound safetensors file.
    """
    from safetensors.numpy import load

    content = read_whole(path, attachment)
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if length > min(LONGEST_HEADER, len(content) - _LENGTH_BYTES):
        raise UserError(f"{path} is no safetensors file that this project wrote: its header is too long", _RESTORE)
    try:
        arrays = load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}", _RESTORE) from error
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    return Tensors(arrays, header.get("__metadata__") or {})
