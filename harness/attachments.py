"""What lies beside a record, named after it: numbers too many for its JSON (no torch)."""

from pathlib import Path
from typing import Literal

from harness.frozen import Frozen, PositiveInt

Kind = Literal["moments", "norms"]


class Attachment(Frozen):
    """A safetensors file beside a record, by the SHA-256 of its bytes and their number.

    "moments" are those of the features that a run's images were judged by, so that anybody can compute its distances
    again; "norms" are the token norms of a few probe images, block by block.
    """

    sha256: str
    size: PositiveInt


def path_beside(record: Path, kind: Kind) -> Path:
    """Where an attachment of the record in that file lies."""
    return record.with_name(f"{record.stem}.{kind}.safetensors")


def present(record: Path, kind: Kind, attachment: Attachment | None) -> Path | None:
    """The attachment's file, where the record names one and it is there in the size that the record says."""
    if attachment is None:
        return None
    path = path_beside(record, kind)
    try:
        return path if path.stat().st_size == attachment.size else None
    except OSError:
        return None
