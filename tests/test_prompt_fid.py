"""Images of prompts, as GenEval's tool lays them out, are compared with any folder: samples only, and no classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.errors import UserError
from harness.evaluating import Evaluated, Folders, Request, evaluate
from harness.image_sets import open_images
from harness.images import Pixels
from harness.judging import Setting
from harness.reference_building import Wanted, build
from tests.test_image_sets import random_images, write_folder
from tests.tiny_extractor import TinyExtractor

PROMPTS, EACH = 6, 4


def write_prompted(root: Path, pixels_NCHW: Pixels, *, grids: bool = True) -> Path:
    """EACH images of a prompt, each prompt in its folder, with its metadata and the tool's picture of all of them."""
    for index, pixels_nCHW in enumerate(np.split(pixels_NCHW, len(pixels_NCHW) // EACH)):
        folder = root / f"{index:05d}"
        (folder / "samples").mkdir(parents=True)
        said = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
        (folder / "metadata.jsonl").write_text(json.dumps(said) + "\n")
        for number, pixels_CHW in enumerate(pixels_nCHW):
            Image.fromarray(pixels_CHW.transpose(1, 2, 0)).save(folder / "samples" / f"{number:04d}.png")
        if grids:
            Image.new("RGB", (13, 13)).save(folder / "grid.png")
    return root


@pytest.fixture
def pixels() -> Pixels:
    return random_images(PROMPTS * EACH, side=8, seed=3)


def _evaluate(place: Path, images: Path, *names: str) -> Evaluated:
    setting = Setting(place / "references", open_extractor=lambda *_: TinyExtractor())
    return evaluate(Request(images, names), Folders(place / "runs", place / "results"), setting)


def test_samples_are_judged_as_if_they_lay_in_one_folder(tmp_path: Path, pixels: Pixels) -> None:
    real = write_folder(tmp_path / "real", random_images(40, side=8, seed=4))
    build(Wanted(real, "real", crop="none"), TinyExtractor(), tmp_path / "references")
    flat = _evaluate(tmp_path, write_folder(tmp_path / "flat", pixels), "real").record
    prompted = _evaluate(tmp_path, write_prompted(tmp_path / "prompted", pixels), "real").record
    assert [m.name for m in prompted.measurements] == ["fd_tiny", "kd_tiny"]
    assert prompted.measurements == flat.measurements
    assert prompted.images.sha256 == flat.images.sha256
    assert prompted.images.num_images == PROMPTS * EACH


def test_prompts_are_no_classes(tmp_path: Path, pixels: Pixels) -> None:
    images = open_images(write_prompted(tmp_path, pixels))
    assert images.labels is None
    assert images.notes == (f"images of {PROMPTS} prompts, in GenEval's layout: those in their folders `samples`",)


def test_images_are_in_the_order_of_their_prompts(tmp_path: Path, pixels: Pixels) -> None:
    images = open_images(write_prompted(tmp_path, pixels))
    assert np.array_equal(images.read(0, images.num_images), pixels)


def test_what_belongs_to_no_prompt_is_passed_over_by_name(tmp_path: Path, pixels: Pixels) -> None:
    place = write_prompted(tmp_path, pixels)
    for name in ("00001/samples/0000_masks.png", "00002/0000.png", "overview.png", "results.txt"):
        (place / name).write_bytes((place / "00000" / "samples" / "0000.png").read_bytes())
    images = open_images(place)
    assert images.num_images == PROMPTS * EACH
    assert images.notes[-1] == "4 other files were passed over: 0000.png, 0000_masks.png, overview.png, results.txt"


def test_numbered_folders_without_prompts_are_classes_as_ever(tmp_path: Path, pixels: Pixels) -> None:
    place = write_prompted(tmp_path, pixels, grids=False)
    for metadata in place.rglob("metadata.jsonl"):
        metadata.unlink()
    labels = open_images(place).labels
    assert labels is not None
    assert labels.tolist() == np.repeat(np.arange(PROMPTS), EACH).tolist()


def test_prompts_without_images_are_no_set_of_grids(tmp_path: Path, pixels: Pixels) -> None:
    place = write_prompted(tmp_path, pixels)
    for sample in place.rglob("samples/*.png"):
        sample.unlink()
    with pytest.raises(UserError, match="holds 6 prompts, and no image of any"):
        open_images(place)


def test_the_folder_may_be_the_present_one(tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_prompted(tmp_path, pixels)
    (place / "cover.png").write_bytes((place / "00000" / "samples" / "0000.png").read_bytes())
    monkeypatch.chdir(place)
    assert open_images(Path()).num_images == PROMPTS * EACH


def test_prompts_without_images_or_with_fewer_are_told_of(tmp_path: Path, pixels: Pixels) -> None:
    place = write_prompted(tmp_path, pixels)
    for sample in [*(place / "00001").rglob("*.png"), place / "00002" / "samples" / "0000.png"]:
        sample.unlink()
    told = open_images(place).notes
    assert f"1 of {PROMPTS} prompts have no image" in told
    assert f"not equally many images of each prompt: {EACH - 1} to {EACH}" in told


@pytest.mark.parametrize("crop", ["adm", "none"])
def test_a_reference_of_such_a_folder_has_no_grids(tmp_path: Path, pixels: Pixels, crop: str) -> None:
    place = write_prompted(tmp_path / "images", pixels)
    wanted = Wanted(place, "others", crop="adm" if crop == "adm" else "none", size=8)
    manifest = build(wanted, TinyExtractor(), tmp_path / "references")
    assert manifest.reference.num_images == PROMPTS * EACH
