"""Pictures that are not what they seem."""

import struct
import zlib
from io import BytesIO

from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes | None = None) -> bytes:
    """A grey PNG that says to be so large; black, or with these rows."""
    rows = bytes(height * (1 + width)) if pixels is None else pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_comment(picture: bytes) -> bytes:
    """The picture with a text chunk before its end."""
    end = chunk(b"IEND", b"")
    return picture.removesuffix(end) + chunk(b"tEXt", b"Comment\x00<script>alert(1)</script>") + end


def as_jpeg(picture: bytes) -> bytes:
    """The same picture in another format."""
    out = BytesIO()
    Image.open(BytesIO(picture)).save(out, "JPEG")
    return out.getvalue()
