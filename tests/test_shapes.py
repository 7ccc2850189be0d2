"""The task shapes-t2i: what it says, what it draws, and what it keeps from training."""

import hashlib
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from harness.errors import UserError
from harness.metrics.geneval.prompt import COLORS, RELATIONS, TAGS
from harness.shapes import grammar, held_out
from harness.shapes.backgrounds import TINTS_B3
from harness.shapes.drawing import DrawnImages, draw_prompt
from harness.shapes.layout import ABSENT, Layout
from harness.shapes.palette import ALL_SIDES, PAINTS, RGB, RGB_P3, SHAPES, SIDES
from harness.shapes.scenes import scene_of
from harness.tasks import SHAPES_FINGERPRINT

COUNT = 20_000


@pytest.fixture(scope="module")
def images() -> DrawnImages:
    return DrawnImages(32, COUNT, seed=3)


@pytest.fixture(scope="module")
def layout(images: DrawnImages) -> Layout:
    return images.layout(np.arange(COUNT))


def test_captions_are_in_genevals_words() -> None:
    said = [
        "a photo of a circle",
        "a photo of a small ring",
        "a photo of a circle and a triangle",
        "a photo of three circles",
        "a photo of an orange circle",
        "a photo of a large orange circle",
        "a photo of a circle below a cross",
        "a photo of an orange circle and a black triangle",
    ]
    assert set(said) <= set(grammar.captions())


def test_a_position_prompt_names_its_target_first() -> None:
    prompt = next(p for p in grammar.evaluation_prompts() if p.tag == "position")
    target, placed = prompt.include
    assert placed.position is not None
    assert placed.position[1] == 0
    assert prompt.prompt == f"a photo of a {placed.object_class} {placed.position[0]} a {target.object_class}"


def test_a_counting_prompt_excludes_one_more() -> None:
    for prompt in grammar.evaluation_prompts():
        if prompt.tag == "counting":
            assert prompt.exclude[0].count == prompt.include[0].count + 1
            assert prompt.exclude[0].object_class == prompt.include[0].object_class


def test_captions_and_prompts_are_all_different() -> None:
    assert len(set(grammar.captions())) == len(grammar.captions())
    prompts = [prompt.prompt for prompt in grammar.evaluation_prompts()]
    assert len(set(prompts)) == len(prompts)


def test_prompts_come_in_the_official_order_of_categories() -> None:
    tags = [prompt.tag for prompt in grammar.evaluation_prompts()]
    assert tuple(dict.fromkeys(tags)) == TAGS
    assert tags == sorted(tags, key=[str(tag) for tag in TAGS].index)


def test_only_single_objects_are_prompts_that_were_learnt() -> None:
    learnt = set(grammar.captions())
    for prompt in grammar.evaluation_prompts():
        assert (prompt.prompt in learnt) == (prompt.tag == "single_object")


def test_every_word_is_learnt() -> None:
    learnt = {word for caption in grammar.captions() for word in grammar.words_of(caption)}
    assert learnt == set(range(1, len(grammar.VOCABULARY)))


def test_words_have_numbers_and_nothing_has_none() -> None:
    text = "a photo of a red circle"
    assert " ".join(grammar.VOCABULARY[word] for word in grammar.words_of(text)) == text
    assert grammar.words_of("") == ()


def test_no_text_is_longer_than_the_longest() -> None:
    texts = [*grammar.captions(), *(prompt.prompt for prompt in grammar.evaluation_prompts())]
    assert max(len(grammar.words_of(text)) for text in texts) == grammar.LONGEST


def test_an_unknown_word_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'hexagon'.*\n.*circle"):
        grammar.words_of("a photo of a hexagon")


def test_a_text_may_be_too_long() -> None:
    with pytest.raises(UserError, match="at most 10"):
        grammar.words_of("a " * 11)


def test_a_prompt_is_turned_back_into_its_scene() -> None:
    for scene in grammar.evaluation_scenes():
        assert scene_of(scene.prompt) == scene


def test_colours_are_genevals_and_far_from_each_other_and_from_backgrounds() -> None:
    assert tuple(color for color in COLORS if color in RGB) == PAINTS
    assert min(np.linalg.norm(np.subtract(one, other)) for one, other in combinations(RGB.values(), 2)) > 100
    assert min(np.linalg.norm(tint - paint) for tint in TINTS_B3 for paint in RGB_P3) > 80


def test_an_image_depends_on_its_seed_and_number_alone(images: DrawnImages) -> None:
    few = DrawnImages(32, 40, seed=3)
    backwards = np.arange(40)[::-1]
    assert np.array_equal(few.pixels(backwards), images.pixels(np.arange(40))[::-1])
    assert np.array_equal(few.pixels(np.array([7])), images.pixels(np.array([7])))
    assert np.array_equal(few.labels, images.labels[:40])
    others = DrawnImages(32, 40, seed=4).pixels(backwards)
    assert not (few.pixels(backwards) == others).all(axis=(1, 2, 3)).any()


def test_every_image_is_one_of_its_own(images: DrawnImages) -> None:
    pixels = images.pixels(np.arange(2_000))
    assert len({image.tobytes() for image in pixels}) == 2_000


@pytest.mark.parametrize("size", [32, 64])
def test_pixels_are_bytes_of_the_asked_size(size: int) -> None:
    images = DrawnImages(size, 5)
    assert len(images) == 5
    assert images.pixels(np.array([4, 0])).shape == (2, 3, size, size)
    assert images.pixels(np.array([], np.int64)).shape == (0, 3, size, size)
    assert images.pixels(np.array([4])).dtype == np.uint8
    image = draw_prompt(grammar.evaluation_prompts()[0], size, seed=1)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8


def test_categories_are_learnt_equally_often_and_all_their_captions(images: DrawnImages) -> None:
    scenes = grammar.training_scenes()
    tags = Counter(scenes[label].tag for label in images.labels)
    assert all(abs(tags[tag] / COUNT - 1 / len(TAGS)) < 0.02 for tag in TAGS)
    assert set(images.labels) == set(range(len(scenes)))


def test_an_image_holds_what_its_caption_says_and_nothing_else(images: DrawnImages, layout: Layout) -> None:
    scenes = grammar.training_scenes()
    for number, label in enumerate(images.labels):
        scene = scenes[label]
        things = scene.things * scene.count
        shapes = [SHAPES[shape] for shape in layout.shapes[number] if shape != ABSENT]
        assert shapes == [thing.shape for thing in things]
        for place, thing in enumerate(things):
            assert thing.color in {None, PAINTS[layout.paints[number, place]]}
            assert thing.size is None or ALL_SIDES[layout.sides[number, place]] in SIDES[thing.size]


def test_objects_stay_inside_and_apart(layout: Layout) -> None:
    there = layout.shapes != ABSENT
    lengths = np.array(ALL_SIDES)[layout.sides]
    starts = np.stack([layout.tops, layout.lefts])
    ends = starts + lengths
    assert starts[:, there].min() >= 1
    assert ends[:, there].max() <= 31
    for one, other in combinations(range(4), 2):
        both = there[:, one] & there[:, other]
        gaps = np.maximum(starts[:, both, one] - ends[:, both, other], starts[:, both, other] - ends[:, both, one])
        assert gaps.max(axis=0).min() >= 2 - 1e-9


def test_what_captions_leave_open_is_drawn_in_every_allowed_way(images: DrawnImages, layout: Layout) -> None:
    there = layout.shapes != ABSENT
    seen = set(zip(layout.shapes[there].tolist(), layout.paints[there].tolist(), strict=True))
    assert len(seen) == len(SHAPES) * len(PAINTS) - len(held_out.colored())
    assert set(layout.sides[there].tolist()) == set(range(len(ALL_SIDES)))
    alone = images.labels == grammar.captions().index("a photo of a circle")
    assert len(set(layout.paints[alone, 0].tolist())) == len(held_out.seen_paints("circle"))


def test_no_image_shows_a_combination_that_is_held_out(layout: Layout) -> None:
    kept = {frozenset(quadruple) for quadruple in held_out.quadruples()}
    for number in range(COUNT):
        things = [
            (PAINTS[layout.paints[number, place]], SHAPES[shape])
            for place, shape in enumerate(layout.shapes[number])
            if shape != ABSENT
        ]
        shapes = sorted({shape for _, shape in things}, key=SHAPES.index)
        assert not set(things) & set(held_out.colored())
        assert tuple(shapes) not in held_out.pairs()
        assert frozenset(things) not in kept
        assert all((count, shape) not in held_out.counted() for shape, count in Counter(s for _, s in things).items())


def test_no_two_objects_lie_in_a_relation_that_is_held_out(layout: Layout) -> None:
    there = layout.shapes != ABSENT
    pair = np.flatnonzero((there.sum(1) == 2) & (layout.shapes[:, 0] != layout.shapes[:, 1]))
    lengths = np.array(ALL_SIDES)[layout.sides[pair, :2]]
    centres = np.stack([layout.lefts[pair, :2], layout.tops[pair, :2]]) + lengths / 2
    right, down = centres[:, :, 0] - centres[:, :, 1]
    sideways = abs(right) > abs(down)
    relations = np.where(sideways, np.where(right < 0, 0, 1), np.where(down < 0, 2, 3))
    shapes = [(SHAPES[a], SHAPES[b]) for a, b in layout.shapes[pair, :2]]
    seen = {(a, b, RELATIONS[relation]) for (a, b), relation in zip(shapes, relations, strict=True)}
    assert not seen & set(held_out.placed())
    assert len(seen) == 2 * len(held_out.seen_pairs()) * len(RELATIONS) - len(held_out.placed())


def test_each_shape_is_learnt_in_most_combinations() -> None:
    for shape in SHAPES:
        assert len(held_out.seen_paints(shape)) >= 5
        assert sum(shape in pair for pair in held_out.seen_pairs()) >= 3
        assert sum(name == shape for _, name in held_out.counted()) == 1
    assert len(held_out.quadruples()) == len(set(map(frozenset, held_out.quadruples())))


def test_the_drawings_are_those_of_their_fingerprint() -> None:
    """Whoever changes what is drawn gives it another fingerprint: runs on other images are other runs."""
    pixels = DrawnImages(32, 1000).pixels(np.arange(64))
    drawn = {"drawn-shapes-1": "97d76c948fb8d7f611ea2a3975a1de6336d2e51df7c118e1a322142c7f64824b"}
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == drawn[SHAPES_FINGERPRINT]
