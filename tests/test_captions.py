"""Folders of images with captions."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.captions import list_captioned
from harness.data import _decode
from harness.errors import UserError
from harness.spec import Task

CAPTIONS = {"a.png": "a red square", "b.jpg": "a blue circle", "deep/c.webp": "a red square"}
TASK = Task(name="t2i", channels=3, image_size=8, num_classes=1)


def _draw(root: Path, names: Mapping[str, str] = CAPTIONS) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(root / name)


def _jsonl(root: Path, captions: Mapping[str, str] = CAPTIONS, column: str = "text") -> None:
    lines = [json.dumps({"file_name": name, column: caption, "size": 8}) for name, caption in captions.items()]
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n\n")


def _csv(root: Path, captions: Mapping[str, str] = CAPTIONS, column: str = "caption") -> None:
    rows = [f'{name},"{caption}"' for name, caption in captions.items()]
    (root / "metadata.csv").write_text("\r\n".join([f"file_name,{column}", *rows]), encoding="utf-8-sig")


def _beside(root: Path, captions: Mapping[str, str] = CAPTIONS) -> None:
    for name, caption in captions.items():
        (root / name).with_suffix(".txt").write_text(f"{caption}\n")


@pytest.fixture(params=[_jsonl, _csv, _beside], ids=["jsonl", "csv", "txt"])
def layout(request: pytest.FixtureRequest) -> Callable[[Path, Mapping[str, str]], None]:
    """Each way to write captions down."""
    write: Callable[[Path, Mapping[str, str]], None] = request.param
    return write


def test_every_layout_gives_the_same_listing(tmp_path: Path, layout: Callable[[Path, Mapping[str, str]], None]) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for place, write in ((root, layout), (other, _jsonl)):
        _draw(place)
        write(place, CAPTIONS)
    (root / "readme.txt").write_text("of no image")
    listing = list_captioned(root)
    assert listing.captions == ("a red square", "a blue circle")
    assert listing.images == ((root / "a.png", 0), (root / "b.jpg", 1), (root / "deep/c.webp", 0))
    assert (listing.root, listing.classes) == (root, ())
    assert listing.fingerprint == list_captioned(other).fingerprint


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_the_usual_columns_are_captions(tmp_path: Path, column: str) -> None:
    _draw(tmp_path)
    _jsonl(tmp_path, column=column)
    assert list_captioned(tmp_path).captions == ("a red square", "a blue circle")


def test_white_space_is_one_blank(tmp_path: Path) -> None:
    _draw(tmp_path)
    _beside(tmp_path, {**CAPTIONS, "a.png": "  a\tblue \n circle "})
    assert list_captioned(tmp_path).captions == ("a blue circle", "a red square")


def test_a_quoted_caption_may_have_commas_and_lines(tmp_path: Path) -> None:
    _draw(tmp_path)
    _csv(tmp_path, {**CAPTIONS, "b.jpg": 'a ""blue"" circle,\r\nsmall'})
    assert list_captioned(tmp_path).captions[1] == 'a "blue" circle, small'


def test_the_fingerprint_changes_with_names_sizes_and_captions(tmp_path: Path) -> None:
    _draw(tmp_path)
    _beside(tmp_path)
    seen = [list_captioned(tmp_path).fingerprint]
    (tmp_path / "a.txt").write_text("a red squares")
    seen.append(list_captioned(tmp_path).fingerprint)
    Image.new("RGB", (90, 90)).save(tmp_path / "a.png")
    seen.append(list_captioned(tmp_path).fingerprint)
    (tmp_path / "a.png").rename(tmp_path / "aa.png")
    (tmp_path / "a.txt").rename(tmp_path / "aa.txt")
    seen.append(list_captioned(tmp_path).fingerprint)
    assert len(set(seen)) == 4
    assert list_captioned(tmp_path).fingerprint == seen[-1]


def test_images_without_a_caption_are_named(tmp_path: Path, layout: Callable[[Path, Mapping[str, str]], None]) -> None:
    _draw(tmp_path)
    layout(tmp_path, {"a.png": "a red square"})
    with pytest.raises(UserError, match=r"2 of the 3 images .* have no caption: b\.jpg, deep/c\.webp"):
        list_captioned(tmp_path)


def test_captions_of_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    _draw(tmp_path)
    _jsonl(tmp_path, {**CAPTIONS, "lost.png": "a dog", "../outside.png": "a cat"})
    with pytest.raises(UserError, match=r"2 images that are not there: lost\.png, \.\./outside\.png"):
        list_captioned(tmp_path)


def test_an_empty_caption_is_refused(tmp_path: Path, layout: Callable[[Path, Mapping[str, str]], None]) -> None:
    _draw(tmp_path)
    layout(tmp_path, {**CAPTIONS, "b.jpg": "  "})
    with pytest.raises(UserError, match="empty caption") as error:
        list_captioned(tmp_path)
    assert "b.txt" in error.value.problem or "line " in error.value.problem


def test_two_layouts_at_once_are_refused(tmp_path: Path) -> None:
    _draw(tmp_path)
    _jsonl(tmp_path)
    (tmp_path / "b.txt").write_text("a circle")
    with pytest.raises(UserError, match=r"metadata\.jsonl and in b\.txt"):
        list_captioned(tmp_path)
    (tmp_path / "b.txt").unlink()
    _csv(tmp_path)
    with pytest.raises(UserError, match=r"metadata\.jsonl and in metadata\.csv"):
        list_captioned(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a"}\n{"file', "line 2 is no JSON"),
        ("metadata.jsonl", "[]", "line 1 is no JSON object"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": 3}', "line 1 does not give file_name and text as text"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a", "caption": "b"}', "has text and caption"),
        ("metadata.jsonl", '{"file_name": "a.png"}', "has no caption"),
        ("metadata.jsonl", '{"file": "a.png", "text": "a"}', "where file_name"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "\\ud800"}', "caption that is no text"),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "a"}\n{"file_name": "./a.png", "text": "b"}',
            "second caption",
        ),
        ("metadata.csv", "file_name,text\na.png", "line 2 does not give"),
        ("metadata.csv", 'file_name,text\na.png,"a"b', "line 2 is no CSV"),
        ("metadata.csv", "name,words\na.png,a", "has no caption"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path: Path, file: str, content: str, words: str) -> None:
    _draw(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=words) as error:
        list_captioned(tmp_path)
    assert file in error.value.problem


def test_captions_that_are_no_utf_8_are_refused(tmp_path: Path) -> None:
    _draw(tmp_path)
    _beside(tmp_path)
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt is no text in UTF-8"):
        list_captioned(tmp_path)


def test_folders_without_images_or_captions_are_refused(tmp_path: Path) -> None:
    for place, words in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "no images in")):
        with pytest.raises(UserError, match=words):
            list_captioned(place)
    _draw(tmp_path)
    with pytest.raises(UserError, match="have no captions") as error:
        list_captioned(tmp_path)
    for word in ("metadata.jsonl", "metadata.csv", ".txt", "file_name"):
        assert word in error.value.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_said(tmp_path: Path) -> None:
    _draw(tmp_path)
    _beside(tmp_path)
    (tmp_path / "deep").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        list_captioned(tmp_path)


def test_the_images_are_decoded_as_those_of_any_folder(tmp_path: Path) -> None:
    _draw(tmp_path / "data")
    (tmp_path / "data" / "b.jpg").write_bytes(b"no image")
    _beside(tmp_path / "data")
    images = _decode(list_captioned(tmp_path / "data"), TASK, tmp_path / "cache")
    assert images.labels.tolist() == [0, 0], "the number of each caption; nobody misses the one that has no image"
    assert "b.jpg" in images.notes[0]
    assert images.pixels(np.arange(2)).shape == (2, 3, 8, 8)
