"""Find the images in a directory, each with its caption (no torch)."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError, disk_error, first_few
from harness.folder import Listing, bytes_of, images_below
from harness.progress import Progress

NAME_COLUMN = "file_name"
CAPTION_COLUMNS = ("text", "caption", "prompt")
CAPTION_SUFFIX = ".txt"
NAMED = 5

_LAYOUTS = (
    "write metadata.jsonl into it, a line for each image such as "
    '{"file_name": "1.png", "text": "a red square"}, or metadata.csv with these columns, or beside each image a '
    ".txt of the same name with its caption"
)


@dataclass(frozen=True)
class CaptionedListing(Listing):
    """What a folder holds: (path, number of its caption) of each image in a fixed order, and no classes.

    `captions` are distinct, in the order in which images first have them.  `fingerprint` changes with the listing's,
    and with any caption.
    """

    captions: tuple[str, ...]


def list_captioned(root: Path) -> CaptionedListing:
    """List the images of a folder and of those below it, links to folders not followed, with the caption of each.

    Captions are in `metadata.jsonl` or `metadata.csv` (Hugging Face's ImageFolder: `file_name`, and `text`, `caption`
    or `prompt`), or in a `.txt` of the same name beside each image.  White space within a caption is one blank.
    Raises UserError where the folder is missing, unreadable or holds no images, where both layouts are there, where an
    image has no caption or several, and where a caption is empty, no text, or of an image that is not there.
    """
    paths = images_below(root)
    try:
        captions = _captions(root, paths)
        listing = _listed(root, paths, captions)
    except OSError as error:
        raise disk_error(Path(error.filename or root), error) from error
    return listing


def _captions(root: Path, paths: Sequence[Path]) -> dict[Path, str]:
    """The caption of every image; raises UserError unless each has just one."""
    tables = [root / name for name in _ROWS_OF if (root / name).is_file()]
    texts = [path.with_suffix(CAPTION_SUFFIX) for path in paths]
    beside = [text for text in texts if text.is_file()]
    if len(tables) + bool(beside) > 1:
        named = [str(file.relative_to(root)) for file in (*tables, *beside[:1])]
        raise UserError(f"{root} has captions in {' and in '.join(named)}: which count is not clear", "keep one kind")
    if not tables and not beside:
        raise UserError(f"the images of {root} have no captions", _LAYOUTS)
    captions = _of_table(tables[0], root) if tables else _of_texts(paths, texts)
    _require_all(root, paths, captions)
    return captions


def _of_texts(paths: Sequence[Path], texts: Sequence[Path]) -> dict[Path, str]:
    captions = {}
    with Progress("reading captions", len(paths)) as progress:
        for path, text in zip(paths, texts, strict=True):
            if text.is_file():
                captions[path] = _caption(_text_of(text), str(text))
            progress.advance(1)
    return captions


def _of_table(table: Path, root: Path) -> dict[Path, str]:
    captions: dict[Path, str] = {}
    column = ""
    for line, row in _ROWS_OF[table.name](table):
        where = f"{table}, line {line}"
        column = column or _caption_column(row, where)
        name, text = row.get(NAME_COLUMN), row.get(column)
        if not isinstance(name, str) or not isinstance(text, str):
            raise UserError(f"{where} does not give {NAME_COLUMN} and {column} as text", "complete the line")
        path = Path(os.path.normpath(root / name))
        if path in captions:
            raise UserError(f"{where} gives {name} a second caption", "keep one line for each image")
        captions[path] = _caption(text, where)
    return captions


def _caption_column(row: Mapping[str, Any], where: str) -> str:
    found = [column for column in CAPTION_COLUMNS if column in row]
    if len(found) != 1 or NAME_COLUMN not in row:
        raise UserError(
            f"{where} has {' and '.join(found) or 'no caption'}, where {NAME_COLUMN} and one of "
            f"{', '.join(CAPTION_COLUMNS)} are wanted",
            "rename or remove columns, so that one is the caption",
        )
    return found[0]


def _lines(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text_of(table).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{table}, line {number} is no JSON: {error}", "correct the line") from error
        if not isinstance(row, dict):
            raise UserError(f"{table}, line {number} is no JSON object", "correct the line")
        yield number, row


def _records(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(io.StringIO(_text_of(table), newline=""), strict=True)
    try:
        yield from ((rows.line_num, row) for row in rows)
    except csv.Error as error:
        raise UserError(f"{table}, line {rows.line_num + 1} is no CSV: {error}", "correct the line") from error


_ROWS_OF: Mapping[str, Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]] = {
    "metadata.jsonl": _lines,
    "metadata.csv": _records,
}


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is no text in UTF-8: {error.reason} at byte {error.start}", "save it as UTF-8"
        ) from error


def _caption(text: str, where: str) -> str:
    """A caption as it is used; raises UserError where nothing is left of it, or it cannot be written down."""
    caption = " ".join(text.split())
    if not caption:
        raise UserError(f"{where} holds an empty caption", "describe the image, or remove it")
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds a caption that is no text: {error.reason}", "correct it") from error
    return caption


def _require_all(root: Path, paths: Sequence[Path], captions: Mapping[Path, str]) -> None:
    if bare := [path for path in paths if path not in captions]:
        raise UserError(
            f"{len(bare)} of the {len(paths)} images of {root} have no caption: {_names(root, bare)}",
            "describe them, or remove them",
        )
    images = set(paths)
    if lost := [path for path in captions if path not in images]:
        raise UserError(
            f"{root} has captions of {len(lost)} images that are not there: {_names(root, lost)}",
            "put the images into the folder, or remove their lines",
        )


def _names(root: Path, paths: Iterable[Path]) -> str:
    return first_few([os.path.relpath(path, root) for path in paths], NAMED)


def _listed(root: Path, paths: Sequence[Path], captions: Mapping[Path, str]) -> CaptionedListing:
    numbers: dict[str, int] = {}
    digest = hashlib.sha256(b"captioned")
    images = []
    for path in paths:
        caption = captions[path]
        images.append((path, numbers.setdefault(caption, len(numbers))))
        digest.update(b"\n%s %d %s" % (os.fsencode(path.relative_to(root)), bytes_of(path), caption.encode()))
    return CaptionedListing(root, (), tuple(images), digest.hexdigest()[:16], tuple(numbers))
