"""The detector finds what mmdet's rule finds in a network's logits, and CLIP names the colour of what is found."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

from harness.errors import UserError
from harness.metrics.clip import open_clip
from harness.metrics.geneval.clip_colors import ColorNamer
from harness.metrics.geneval.color_prompts import color_prompts
from harness.metrics.geneval.detections import Detections, Masks, Objects
from harness.metrics.geneval.detector import FILES, Detector, Frame, instances, open_detector
from harness.metrics.geneval.objects import OBJECTS
from harness.metrics.geneval.prompt import COLORS
from harness.metrics.judge_networks import WEIGHTS
from tests.clip_builders import save_clip
from tests.geneval_builders import SIDE, rename_labels, save_detector, some_prompts, write_gallery

CPU = torch.device("cpu")
LEAST = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("models") / "tiny-mask2former")


@pytest.fixture(scope="module")
def detector(folder: Path) -> Detector:
    return open_detector(str(folder), CPU, size="checkpoint")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    place = write_gallery(tmp_path_factory.mktemp("images"), some_prompts()[:3], each=1)
    return [Image.open(path).convert("RGB") for path in sorted(place.rglob("samples/*.png"))]


@pytest.fixture(scope="module")
def namer(tmp_path_factory: pytest.TempPathFactory) -> ColorNamer:
    return ColorNamer(open_clip(str(save_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")), CPU))


def _same(one: Detections, other: Detections) -> bool:
    if one.keys() != other.keys():
        return False
    pairs = [(one[name], other[name]) for name in one]
    boxes = [np.array_equal(mine.boxes, theirs.boxes) for mine, theirs in pairs]
    return all(boxes) and all(np.array_equal(_masks(mine), _masks(theirs)) for mine, theirs in pairs)


def _masks(objects: Objects) -> Masks:
    assert objects.masks is not None
    return objects.masks


def _by_loops(classes: torch.Tensor, masks: torch.Tensor, frame: Frame) -> list[tuple[Any, ...]]:
    """mmdet's rule once more, pair by pair: (class, confidence, box, number of pixels)."""
    pairs = []
    for query, logits in enumerate(classes.double().tolist()):
        whole = sum(np.exp(logits))
        pairs += [(float(np.exp(logit)) / whole, query, index) for index, logit in enumerate(logits[:-1])]
    found = []
    for probability, query, index in sorted(pairs, reverse=True)[:100]:
        large = functional.interpolate(masks[query][None, None], frame.input, mode="bilinear", align_corners=False)
        content = large[:, :, : frame.content[0], : frame.content[1]]
        mask = functional.interpolate(content, frame.image, mode="bilinear", align_corners=False)[0, 0].double().numpy()
        ys, xs = np.nonzero(mask > 0)
        if len(ys):
            quality = float(np.mean(1 / (1 + np.exp(-mask[mask > 0]))))
            box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
            found.append((OBJECTS[index], probability * quality, box, len(ys)))
    return found


def test_instances_are_those_of_mmdets_rule() -> None:
    random = torch.Generator().manual_seed(3)
    classes = 2 * torch.randn(6, 81, generator=random)
    masks = 3 * torch.randn(6, 4, 5, generator=random) - 2
    frame = Frame(input=(16, 20), content=(14, 17), image=(31, 23))
    found = instances(classes, masks, frame)
    due = _by_loops(classes, masks, frame)
    assert sum(len(objects.boxes) for objects in found.values()) == len(due) > 50
    for name, objects in found.items():
        assert objects.masks is not None
        mine = [(row[4], tuple(row[:4]), mask.sum()) for row, mask in zip(objects.boxes, objects.masks, strict=True)]
        theirs = [each[1:] for each in due if each[0] == name]
        assert [each[1:] for each in mine] == [each[1:] for each in theirs]
        assert [each[0] for each in mine] == pytest.approx([each[0] for each in theirs], rel=1e-4)


def test_a_mask_without_a_pixel_is_no_object() -> None:
    classes = torch.zeros(2, 81)
    classes[:, 3] = 9.0
    masks = torch.full((2, 4, 4), -1.0)
    masks[1, 2, 3] = 50.0
    frame = Frame((4, 4), (4, 4), (4, 4))
    found = instances(classes, masks, frame, least=LEAST)
    assert list(found) == ["motorcycle"]
    assert found["motorcycle"].boxes[:, :4].tolist() == [[3, 2, 4, 3]]
    assert not instances(classes, masks.clamp(max=-1), frame)


def test_what_nobody_asks_for_is_left_out_and_nothing_else(detector: Detector, images: list[Image.Image]) -> None:
    eager = list(detector.detect(images))
    detector.least = LEAST
    frugal = list(detector.detect(images))
    detector.least = 0.0
    assert sum(map(len, frugal)) < sum(map(len, eager))
    assert _confident(frugal) == _confident(eager)
    assert any(_confident(eager))


def _confident(found: Sequence[Detections]) -> list[dict[str, Any]]:
    rows = [
        {name: [row for row in objects.boxes.tolist() if row[4] > LEAST] for name, objects in each.items()}
        for each in found
    ]
    return [{name: boxes for name, boxes in each.items() if boxes} for each in rows]


def test_objects_lie_in_the_image_and_are_of_its_size(detector: Detector, images: list[Image.Image]) -> None:
    W, H = images[0].size
    for found in detector.detect(images):
        assert found
        for objects in found.values():
            assert objects.boxes.dtype == np.float32
            assert objects.masks is not None
            assert objects.masks.shape == (len(objects.boxes), H, W)
            for x1, y1, x2, y2, confidence in objects.boxes:
                assert 0 <= x1 < x2 <= W
                assert 0 <= y1 < y2 <= H
                assert 0 < confidence <= 1


def test_the_same_bits_are_found_in_any_batch_on_a_cpu(detector: Detector, images: list[Image.Image]) -> None:
    together = list(detector.detect(images))
    alone = [next(iter(detector.detect([image]))) for image in images]
    assert len(together) == len(images) == 3
    assert all(map(_same, together, alone))
    assert not _same(*together[:2])


class _SmallMemory:
    """A network that fits so many images at once."""

    def __init__(self, network: Any, most: int) -> None:
        self.network, self.most, self.seen = network, most, list[int]()

    def __call__(self, pixel_values: torch.Tensor) -> Any:
        self.seen.append(len(pixel_values))
        if len(pixel_values) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(pixel_values=pixel_values)


def test_a_batch_that_is_too_large_is_halved_until_it_fits(folder: Path, images: list[Image.Image]) -> None:
    narrow, wide = (open_detector(str(folder), CPU, size="checkpoint", least=LEAST) for _ in range(2))
    narrow.batch, network = 4, _SmallMemory(narrow._model, 1)
    narrow._model = network
    found = list(narrow.detect(images))
    assert network.seen == [3, 2, 1, 1, 1]
    assert all(map(_same, found, wide.detect(images)))
    network.most = 0
    with pytest.raises(UserError, match="too small for the detector and one image"):
        list(narrow.detect(images))


def test_an_input_is_filled_up_to_sides_that_fit(folder: Path, tmp_path: Path, images: list[Image.Image]) -> None:
    place = shutil.copytree(folder, tmp_path / "odd")
    settings = json.loads((place / FILES[1]).read_text())
    (place / FILES[1]).write_text(json.dumps(settings | {"size": {"height": 50, "width": 70}, "size_divisor": 0}))
    odd = open_detector(str(place), CPU, size="checkpoint", least=LEAST)
    shapes = []
    network = odd._model

    def watched(pixel_values: torch.Tensor) -> Any:
        shapes.append((tuple(pixel_values.shape[2:]), bool(pixel_values[:, :, 50:].any())))
        return network(pixel_values=pixel_values)

    odd._model = watched
    (found,) = odd.detect(images[:1])
    assert shapes == [((64, 96), False)]
    assert found


def test_images_are_resized_as_the_checkpoint_says_or_as_officially(folder: Path, images: list[Image.Image]) -> None:
    official = open_detector(str(folder), CPU, size="official")
    usual = open_detector(str(folder), CPU, size="checkpoint")
    assert images[0].size == (48, 40)
    assert usual._prepare(images[0]).shape == (1, 3, SIDE, SIDE)
    assert official._prepare(images[0]).shape == (1, 3, 800, 960)
    assert official._prepare(images[0].resize((100, 20))).shape == (1, 3, 267, 1333)
    assert official.version != usual.version


def test_a_detector_of_other_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    place = shutil.copytree(folder, tmp_path / "named")
    aliases = {"tv": "tvmonitor", "tv remote": "remote", "couch": "sofa", "potted plant": "pottedplant"}
    rename_labels(place, [aliases.get(name, name) for name in OBJECTS])
    open_detector(str(place), CPU, size="checkpoint")
    rename_labels(place, sorted(OBJECTS))
    with pytest.raises(UserError, match="COCO's classes in another order: airplane, apple"):
        open_detector(str(place), CPU, size="checkpoint")
    more = save_detector(tmp_path / "panoptic", [*OBJECTS, *(f"stuff {index}" for index in range(53))])
    with pytest.raises(UserError, match=r"knows 133 classes \(person, bicycle"):
        open_detector(str(more), CPU, size="checkpoint")


def test_weights_that_are_lost_are_never_drawn_at_random(folder: Path, tmp_path: Path) -> None:
    place = shutil.copytree(folder, tmp_path / "lossy")
    state = load_file(place / WEIGHTS)
    save_file({key: value for key, value in state.items() if "class_predictor" not in key}, place / WEIGHTS)
    with pytest.raises(UserError, match=r"lacks 2 weights: class_predictor\.bias"):
        open_detector(str(place), CPU, size="checkpoint")
    (place / WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        open_detector(str(place), CPU, size="checkpoint")
    (place / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"lacks model\.safetensors"):
        open_detector(str(place), CPU, size="checkpoint")


def test_damaged_settings_are_the_folders_fault(folder: Path, tmp_path: Path) -> None:
    place = shutil.copytree(folder, tmp_path / "damaged")
    config = json.loads((place / FILES[0]).read_text())
    damaged: list[Any] = [{**config, "num_queries": "x"}, {**config, "backbone_config": 5}, []]
    for content in damaged:
        (place / FILES[0]).write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"cannot be read|of the kind None"):
            open_detector(str(place), CPU, size="checkpoint")


def test_a_network_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    place = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((place / FILES[0]).read_text())
    (place / FILES[0]).write_text(json.dumps(config | {"model_type": "detr"}))
    with pytest.raises(UserError, match="of the kind detr, not mask2former"):
        open_detector(str(place), CPU, size="checkpoint")


def test_a_detector_is_taken_from_the_hubs_cache_without_asking_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", None)
    shutil.copytree(folder, tmp_path / "models--some--mask2former" / "snapshots" / "0a")
    found = open_detector("some/mask2former", CPU, size="checkpoint")
    assert found.name == "some/mask2former"
    assert found.weights_sha256 == open_detector(str(folder), CPU, size="checkpoint").weights_sha256


def test_colours_are_asked_for_in_the_official_words() -> None:
    assert color_prompts("computer mouse", "red") == (
        "a photo of a red computer mouse",
        "a photo of a red-colored computer mouse",
        "a photo of a red object",
    )


def test_a_colour_is_the_one_whose_texts_are_nearest(namer: ColorNamer) -> None:
    random = np.random.default_rng(0)
    whole = Objects(np.array([[0, 0, 32, 32, 1]], np.float32), np.ones((1, 32, 32), np.bool_))
    texts = [namer.clip.text_features(color_prompts("cup", color)).astype(np.float64) for color in COLORS]
    means = [np.mean(three / np.linalg.norm(three, axis=1, keepdims=True), axis=0) for three in texts]
    named = set()
    for _ in range(12):
        image = Image.fromarray(random.integers(0, 256, (2, 2, 3), np.uint8)).resize((32, 32), Image.Resampling.NEAREST)
        (seen_E,) = namer.clip.image_features([image])
        (color,) = namer.name(image, "cup", whole, [0])
        assert color == COLORS[int(np.argmax([seen_E @ mean_E / np.linalg.norm(mean_E) for mean_E in means]))]
        named.add(color)
    assert len(named) > 1


def test_only_the_object_itself_colours_it(namer: ColorNamer) -> None:
    random = np.random.default_rng(1)
    boxes = np.array([[8, 8, 40, 40, 0.9], [0, 0, 48, 48, 0.8]], np.float32)
    masks = np.zeros((2, 48, 48), np.bool_)
    masks[0, 16:32, 8:40] = True
    masks[1] = True
    alone, with_surroundings = set(), set()
    for _ in range(8):
        pixels = np.repeat(random.integers(0, 256, (48, 1, 3), np.uint8), 48, axis=1)
        pixels[masks[0]] = (200, 30, 60)
        image = Image.fromarray(pixels)
        both = namer.name(image, "apple", Objects(boxes, masks), [0, 1])
        assert namer.name(image, "apple", Objects(boxes, masks), [1, 0]) == both[::-1]
        alone.add(both[0])
        with_surroundings.update(namer.name(image, "apple", Objects(boxes), [0]))
    assert len(alone) == 1 < len(with_surroundings)
