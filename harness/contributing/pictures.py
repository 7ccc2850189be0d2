"""Whether a sample grid is the picture that its record names, and nothing besides (no torch)."""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image

from harness.contributing.verdict import Breach
from harness.records import RunRecord
from harness.store import Problem

MOST_BYTES: Final = 4 * 2**20
MOST_UNPACKED: Final = 64 * 2**20
GAP: Final = 2  # between two images of a grid, see harness.images
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER: Final = struct.Struct(">IIBBBBB")
_GREY, _RGB = 0, 2

# What may stand before each kind of chunk: one header, pixels, and the end.
_FOLLOWS: Final = {b"IHDR": (b"",), b"IDAT": (b"IHDR", b"IDAT"), b"IEND": (b"IDAT",)}
_REMEDY: Final = "submit the picture that the run wrote, or the record without one (`samples` null)"


class _NotPlainError(ValueError):
    """What is wrong with a PNG file."""


@dataclass(frozen=True)
class _Png:
    """What a PNG says of itself, and its compressed rows."""

    width: int
    height: int
    channels: int
    compressed: bytes


def breaches_of_picture(record: RunRecord, path: Path, content: bytes | Problem) -> Iterator[Breach]:
    """What is wrong with the sample grid of the record in the file `path`; `content` are the picture's bytes."""
    samples = record.samples
    assert samples is not None, "a record with a picture"
    if samples.file != f"{path.stem}.png":
        yield Breach("picture", f"its picture is called {samples.file[:80]!a}, and not after it", _REMEDY)
        return
    if isinstance(content, Problem):
        yield Breach("picture", f"its picture {samples.file} cannot be read: {content.reason}", _REMEDY)
        return
    if hashlib.sha256(content).hexdigest() != samples.sha256:
        yield Breach("picture", f"{samples.file} is not the picture that it names: their SHA-256 differ", _REMEDY)
        return
    try:
        _require_plain(content, _wanted(record))
    except _NotPlainError as error:
        yield Breach("picture", f"{samples.file} {error}", _REMEDY)


def is_plain(content: bytes) -> bool:
    """Whether these bytes are chunk by chunk such a PNG as we write: only then its header says how large it is."""
    try:
        _parsed(content)
    except _NotPlainError:
        return False
    return True


def _wanted(record: RunRecord) -> tuple[int, int, int]:
    """(width, height, channels) of a grid without scaling."""
    samples, task = record.samples, record.config.task
    assert samples is not None, "a record with a picture"
    side = task.image_size + GAP
    return samples.columns * side - GAP, samples.rows * side - GAP, task.channels


def _require_plain(content: bytes, wanted: tuple[int, int, int]) -> None:
    """Raise _NotPlainError unless these bytes are a PNG of that size with pixels alone."""
    png = _parsed(content)
    if (png.width, png.height, png.channels) != wanted:
        found = f"{png.width} x {png.height} with {png.channels} channels"
        raise _NotPlainError(f"is {found}: its grid is {wanted[0]} x {wanted[1]} with {wanted[2]}")
    due = png.height * (1 + png.width * png.channels)
    if due > MOST_UNPACKED:
        raise _NotPlainError(f"would unpack to {due:,} bytes: at most {MOST_UNPACKED:,}")
    inflated = zlib.decompressobj()
    try:
        rows = inflated.decompress(png.compressed, due + 1)
    except zlib.error as error:
        raise _NotPlainError("is damaged: its pixels do not decompress") from error
    if len(rows) != due or not inflated.eof or inflated.unused_data or inflated.unconsumed_tail:
        raise _NotPlainError("holds more or less than its pixels")
    try:
        with Image.open(BytesIO(content), formats=("PNG",)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _NotPlainError("is damaged: its pixels cannot be read") from error


def _parsed(content: bytes) -> _Png:
    if not content.startswith(_SIGNATURE):
        raise _NotPlainError("is no PNG, whatever its name says")
    before, header, compressed = b"", b"", []
    at = len(_SIGNATURE)
    for kind, data, after in _chunks(content, at):
        if kind not in _FOLLOWS or before not in _FOLLOWS[kind]:
            raise _NotPlainError(f"has a {kind!a} chunk where none belongs: ours are IHDR, IDAT, IEND, pixels alone")
        if kind == b"IEND" and data:
            raise _NotPlainError(f"has {len(data):,} bytes in its last chunk, which holds none")
        header = data if kind == b"IHDR" else header
        compressed += [data] if kind == b"IDAT" else []
        before, at = kind, after
    if at != len(content):
        raise _NotPlainError(f"goes on for {len(content) - at:,} bytes after its end")
    if len(header) != _HEADER.size:
        raise _NotPlainError("has no header of 13 bytes")
    width, height, depth, colour, *rest = _HEADER.unpack(header)
    if depth != 8 or colour not in (_GREY, _RGB) or any(rest):
        raise _NotPlainError("is not 8-bit grey or RGB without interlacing")
    return _Png(width, height, 1 if colour == _GREY else 3, b"".join(compressed))


def _chunks(content: bytes, at: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Each chunk's kind, its data, and where it ends, up to the one that ends the picture."""
    kind = b""
    while kind != b"IEND":
        length = int.from_bytes(content[at : at + 4], "big")
        kind, end = content[at + 4 : at + 8], at + 12 + length
        if end > len(content):
            raise _NotPlainError("is cut short")
        data = content[at + 8 : end - 4]
        if zlib.crc32(kind + data) != int.from_bytes(content[end - 4 : end], "big"):
            raise _NotPlainError("is damaged: a checksum does not agree")
        yield kind, data, end
        at = end
