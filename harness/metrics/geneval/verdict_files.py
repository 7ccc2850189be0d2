"""The file of verdicts beside a record: written, read, and decided again without the images (no torch)."""

import gzip
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import ValidationError

from harness.attachments import Attachment, attachment_of, read_whole
from harness.errors import UserError
from harness.files import write_bytes
from harness.metrics.geneval.detections import Objects
from harness.metrics.geneval.rules import OFFICIAL, Options, decide
from harness.metrics.geneval.verdicts import FoundObject, ImageVerdict, PromptVerdicts
from harness.plain_files import reason_of

# Ten times what the official prompts can come to.
MOST_CHARACTERS: Final = 64 * 2**20
# In pixels; single precision still tells neighbouring ones apart.
FARTHEST: Final = 2.0**20
_RESTORE: Final = "bring back the file that the evaluation wrote, or submit the record without it"


def write_verdicts(path: Path, verdicts: Sequence[PromptVerdicts]) -> Attachment:
    """Write them, and return what a record says of the file.  Raises UserError where it cannot be written."""
    content = encode(verdicts)
    write_bytes(path, content)
    return attachment_of(content)


def read_verdicts(path: Path, attachment: Attachment) -> list[PromptVerdicts]:
    """What `write_verdicts` wrote.  Raises UserError where the file is not the one that the record names."""
    content = read_whole(path, attachment)
    try:
        return decode(content)
    except UserError as error:
        raise UserError(f"{path}: {error.problem}", error.remedy) from error


def encode(verdicts: Sequence[PromptVerdicts]) -> bytes:
    """JSON, the verdicts of one prompt a line, packed by gzip without a name or a time: equal verdicts, equal bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, filename="", mode="wb", mtime=0) as file:
        file.write(_text(verdicts).encode())
    return packed.getvalue()


def decode(content: bytes) -> list[PromptVerdicts]:
    """The verdicts in such bytes, whoever wrote them.

    No more than MOST_CHARACTERS are unpacked.  Raises UserError unless `encode` would write that very text.
    """
    text = _unpacked(content)
    verdicts = [_verdicts(line, number) for number, line in enumerate(text.splitlines(), start=1)]
    if _text(verdicts) != text:
        raise UserError("the verdicts are not written as this project writes them", _RESTORE)
    return verdicts


def decided_again(verdicts: Sequence[PromptVerdicts], options: Options = OFFICIAL) -> list[PromptVerdicts]:
    """The verdicts that follow from what was found, without the images: the same ones, where nobody changed them.

    `options` are those of the first time: objects that did not count then are not there to count now.
    """
    return [each.model_copy(update={"images": _images_again(each, options)}) for each in verdicts]


def _images_again(verdicts: PromptVerdicts, options: Options) -> tuple[ImageVerdict, ...]:
    return tuple(_decided_again(verdicts, image, options) for image in verdicts.images)


def _decided_again(verdicts: PromptVerdicts, image: ImageVerdict, options: Options) -> ImageVerdict:
    # The last of equally confident objects comes first: from behind, all come in their order again.
    found = {name: group[::-1] for name, group in image.found.items()}
    detections = {name: Objects(np.array([each[:-1] for each in group], np.float32)) for name, group in found.items()}

    def colors_of(name: str, rows: Sequence[int]) -> list[str]:
        return [_color(name, found[name][row]) for row in rows]

    return decide(verdicts.prompt, detections, colors_of, options)


def _color(name: str, found: FoundObject) -> str:
    *_, color = found
    if color is None:
        raise UserError(f"the verdicts lack the colour of a {name}, on which one of them rests", _RESTORE)
    return color


def _text(verdicts: Sequence[PromptVerdicts]) -> str:
    fields = (each.model_dump(mode="json", by_alias=True, exclude_defaults=True) for each in verdicts)
    return "".join(f"{json.dumps(each, separators=(',', ':'), allow_nan=False)}\n" for each in fields)


def _unpacked(content: bytes) -> str:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(MOST_CHARACTERS + 1)
        text = unpacked.decode("ascii")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"these are no packed verdicts: {error}", _RESTORE) from error
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"these verdicts are longer than {MOST_CHARACTERS:,} characters", _RESTORE)
    return text


def _verdicts(line: str, number: int) -> PromptVerdicts:
    try:
        verdicts = PromptVerdicts.model_validate_json(line)
    except ValidationError as error:
        raise UserError(f"line {number} has no verdicts: {reason_of(error)}", _RESTORE) from error
    numbers = [each[:-1] for image in verdicts.images for group in image.found.values() for each in group]
    if numbers and np.abs(numbers).max() > FARTHEST:
        raise UserError(f"line {number} has objects outside of any image", _RESTORE)
    return verdicts
