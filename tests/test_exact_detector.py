"""The exact detector of shapes-t2i, judged by GenEval's rules on images of which everything is known."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from harness.metrics.geneval.chance import Detected, chance_of
from harness.metrics.geneval.exact_detector import IDENTITY, Image, detect
from harness.metrics.geneval.rules import Options, decide
from harness.shapes.drawing import DrawnImages, draw_prompt
from harness.shapes.grammar import evaluation_prompts, training_scenes
from harness.shapes.layout import ABSENT, Layout
from harness.shapes.palette import PAINTS, RGB, SHAPES

TRAINING = {32: 1_200, 64: 150}
PER_PROMPT = 4
GREY = 225


def _found(detected: Detected, confidence: float = 0.3) -> list[tuple[str, str]]:
    detections, colors_of = detected
    rows = {name: np.flatnonzero(objects.boxes[:, 4] > confidence).tolist() for name, objects in detections.items()}
    return sorted((name, color) for name, each in rows.items() for color in colors_of(name, each))


def _drawn(layout: Layout, number: int) -> list[tuple[str, str]]:
    both = zip(layout.shapes[number], layout.paints[number], strict=True)
    return sorted((SHAPES[shape], PAINTS[paint]) for shape, paint in both if shape != ABSENT)


def _images(size: int, count: int, seed: int) -> tuple[list[Image], DrawnImages, Layout]:
    drawn, numbers = DrawnImages(size, count, seed), np.arange(count)
    pixels = np.ascontiguousarray(drawn.pixels(numbers).transpose(0, 2, 3, 1))
    return list(pixels), drawn, drawn.layout(numbers)


def _painted(inside: npt.NDArray[np.bool_], paint: str = "blue") -> Image:
    image = np.full((*inside.shape, 3), GREY, np.uint8)
    image[inside] = RGB[paint]
    return image


@pytest.mark.parametrize("size", [32, 64])
def test_every_training_image_is_right_and_shows_nothing_that_is_held_out(size: int) -> None:
    images, drawn, layout = _images(size, TRAINING[size], seed=11)
    held_out = [prompt for prompt in evaluation_prompts() if prompt.tag != "single_object"]
    for number, image in enumerate(images):
        detected = detect(image)
        assert _found(detected, 0.9) == _drawn(layout, number)
        own = training_scenes()[drawn.labels[number]].prompt
        assert decide(own, *detected).correct, f"image {number}: {own.prompt}"
        wrong = [prompt.prompt for prompt in held_out if decide(prompt, *detected).correct]
        assert not wrong, f"image {number}: {own.prompt}"


@pytest.fixture(scope="module", params=[32, 64])
def held_out_images(request: pytest.FixtureRequest) -> list[list[Detected]]:
    prompts = evaluation_prompts()
    return [[detect(draw_prompt(prompt, request.param, seed)) for seed in range(PER_PROMPT)] for prompt in prompts]


def test_every_drawn_prompt_is_right(held_out_images: list[list[Detected]]) -> None:
    for prompt, made in zip(evaluation_prompts(), held_out_images, strict=True):
        assert all(decide(prompt, *detected).correct for detected in made), prompt.prompt


def test_positions_are_clear(held_out_images: list[list[Detected]]) -> None:
    strict = Options(position_threshold=0.2)
    for prompt, made in zip(evaluation_prompts(), held_out_images, strict=True):
        assert all(decide(prompt, *detected, strict).correct for detected in made), prompt.prompt


def test_a_drawn_prompt_satisfies_no_other_but_its_own_in_other_words(held_out_images: list[list[Detected]]) -> None:
    prompts = evaluation_prompts()
    tags = [prompt.tag for prompt in prompts]
    nothing = dict.fromkeys(tags, 0.0)
    rewordings = {tag: 1 / (tags.count(tag) - 1) for tag in ("two_object", "position")}
    assert chance_of(prompts, held_out_images) == pytest.approx(nothing | rewordings)


def test_chance_is_absent_where_there_is_nothing_to_judge() -> None:
    first, second = evaluation_prompts()[:2]
    assert chance_of([first], [[({}, lambda _, rows: ["red" for _ in rows])]]) == {}
    assert chance_of([first, second], [[], []]) == {}


def _noisy(image: Image) -> Image:
    noise = np.random.default_rng(int(image.sum())).normal(0, 12, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _blurred(image: Image) -> Image:
    return np.asarray(ndimage.gaussian_filter(image.astype(np.float32), (0.6, 0.6, 0)), np.uint8)


def _faded(image: Image) -> Image:
    return (image * 0.8 + 40).astype(np.uint8)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    "spoil", [_noisy, lambda image: _noisy(_blurred(image)), _faded], ids=["noise", "blur", "fade"]
)
def test_imperfect_images_are_nearly_always_right(size: int, spoil: Callable[[Image], Image]) -> None:
    images, drawn, _ = _images(size, 200, seed=12)
    prompts = [training_scenes()[label].prompt for label in drawn.labels]
    right = [decide(prompt, *detect(spoil(image))).correct for prompt, image in zip(prompts, images, strict=True)]
    assert np.mean(right) >= 0.97


def test_objects_of_different_colours_may_touch() -> None:
    image = np.full((32, 32, 3), GREY, np.uint8)
    image[8:20, 4:16], image[8:20, 16:28] = RGB["red"], RGB["green"]
    assert _found(detect(image), 0.9) == [("square", "green"), ("square", "red")]


def test_objects_are_found_on_a_background_of_a_palette_colour() -> None:
    image = np.full((32, 32, 3), RGB["black"], np.uint8)
    image[8:20, 10:22] = RGB["yellow"]
    assert _found(detect(image), 0.9) == [("square", "yellow")]


def test_boxes_and_masks_hold_the_object() -> None:
    inside = np.zeros((32, 32), np.bool_)
    inside[8:20, 5:17] = True
    squares = detect(_painted(inside))[0]["square"]
    assert squares.boxes[0, :4].tolist() == [5, 8, 16, 19]
    assert squares.masks is not None
    assert np.array_equal(squares.masks[0], inside)
    assert squares.boxes.dtype == np.float32


Y, X = np.mgrid[:32, :32] - 15.5
NO_SHAPES = {
    "half disc": (X**2 + Y**2 < 49) & (Y < 0),
    "disc without a quarter": (X**2 + Y**2 < 49) & ((Y > 0) | (X > 0)),
    "triangle on its tip": (abs(X) <= (7 - Y) / 2) & (abs(Y) < 7),
    "right triangle": (X <= Y) & (X > -7) & (Y < 7),
    "a square too large": (abs(X) < 11) & (abs(Y) < 11),
    "a square too small": (abs(X) < 3) & (abs(Y) < 3),
    "bar": (abs(X) < 7) & (abs(Y) < 4),
    "angle": (abs(X) < 7) & (abs(Y) < 7) & ((X < -2) | (Y > 2)),
    "two squares in one": (abs(X) < 14) & (abs(Y) < 7),
    "a few specks": (abs(X) % 5 < 2) & (abs(Y) % 5 < 2),
}


@pytest.mark.parametrize("name", NO_SHAPES)
def test_what_is_no_shape_is_not_found(name: str) -> None:
    assert _found(detect(_painted(NO_SHAPES[name]))) == []


def test_nothing_is_found_in_nothing() -> None:
    assert detect(np.full((32, 32, 3), GREY, np.uint8))[0] == {}
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert _found(detect(noise)) == []


def test_the_detector_says_what_it_is() -> None:
    assert (IDENTITY.name, IDENTITY.version, len(IDENTITY.weights_sha256)) == ("exact-shapes", "1", 64)
