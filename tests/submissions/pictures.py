"""Pictures that are not what they seem."""

import struct
import zlib
from io import BytesIO

from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes | None = None, *, level: int = -1) -> bytes:
    """A grey PNG that says to be so large; black, or with these rows."""
    rows = bytes(height * (1 + width)) if pixels is None else pixels
    parts = [chunk(b"IHDR", header(width, height)), chunk(b"IDAT", zlib.compress(rows, level)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_comment(picture: bytes) -> bytes:
    """The picture with a text chunk before its end."""
    end = chunk(b"IEND", b"")
    return picture.removesuffix(end) + chunk(b"tEXt", b"Comment\x00<script>alert(1)</script>") + end


def header(width: int, height: int) -> bytes:
    """What the first chunk of a grey picture holds."""
    return struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)


def with_chunk(picture: bytes, kind: bytes, data: bytes, after: bytes = b"IHDR") -> bytes:
    """The picture with one more chunk, after its header or its pixels; an IEND takes the end's place."""
    end = chunk(b"IEND", b"")
    if kind == b"IEND":
        return picture.removesuffix(end) + chunk(kind, data)
    at = 8 + 25 if after == b"IHDR" else len(picture) - len(end)
    return picture[:at] + chunk(kind, data) + picture[at:]


def as_jpeg(picture: bytes) -> bytes:
    """The same picture in another format."""
    out = BytesIO()
    Image.open(BytesIO(picture)).save(out, "JPEG")
    return out.getvalue()
