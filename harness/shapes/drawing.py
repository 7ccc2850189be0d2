"""The images of shapes-t2i, drawn when they are asked for: image i is a function of (seed, i) alone (no torch)."""

# N images, C colour channels, S image height and width, W window height and width, M objects, K objects an image at
# most, D random numbers an image

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.metrics.geneval.prompt import TAGS, Prompt
from harness.shapes.backgrounds import NUM_RANDOM as BACKGROUND_RANDOM
from harness.shapes.backgrounds import backgrounds
from harness.shapes.grammar import training_scenes
from harness.shapes.layout import (
    ABSENT,
    MOST_OBJECTS,
    NUM_RANDOM,
    Ints,
    Layout,
    Numbers,
    Objects,
    Said,
    lay_out,
    said_by,
)
from harness.shapes.palette import DESIGN_SIZE, PHASES, RGB_P3, Floats, stencils
from harness.shapes.scenes import scene_of

Pixels = npt.NDArray[np.uint8]

_CAPTION_RANDOM = 2
_ALL_RANDOM: Final = _CAPTION_RANDOM + NUM_RANDOM + BACKGROUND_RANDOM
# Drawn in one go: more fall out of a processor's cache.
_BATCH = 64
_PROMPTS_SEED = 2**40


class DrawnImages:
    """`count` images of (3, S, S) with `labels` (N,): the places of their captions in grammar.captions().

    Every category is as frequent as every other, and within one every caption.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, image_size: int, count: int, seed: int = 0) -> None:
        assert image_size % DESIGN_SIZE == 0, f"drawn for multiples of {DESIGN_SIZE}"
        self.image_size = image_size
        self.seed = seed
        self.labels = _pick_captions(_random(seed, np.arange(count), _CAPTION_RANDOM))

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Ints) -> Pixels:
        """The images of these indices, (n, 3, S, S), in their order."""
        pieces = [indices[start : start + _BATCH] for start in range(0, len(indices), _BATCH)]
        drawn = [_draw(self.layout(piece), self._random(piece), self.image_size) for piece in pieces]
        return np.concatenate(drawn) if drawn else np.empty((0, 3, self.image_size, self.image_size), np.uint8)

    def layout(self, indices: Ints) -> Layout:
        """Which objects these images hold, and where."""
        return lay_out(_training_captions().of(self.labels[indices]), self._random(indices)[:, _CAPTION_RANDOM:])

    def forget(self) -> None:
        """There is nothing to give back."""

    def _random(self, indices: Ints) -> Numbers:
        return _random(self.seed, indices, _ALL_RANDOM)


def draw_prompt(prompt: Prompt, image_size: int, seed: int) -> Pixels:
    """An image, (S, S, 3), of what a prompt of ours asks for, held out or not, and of nothing else."""
    random_ND = _random(_PROMPTS_SEED + seed, np.zeros(1, np.int64), _ALL_RANDOM)
    layout = lay_out(said_by([scene_of(prompt)]), random_ND[:, _CAPTION_RANDOM:])
    return np.ascontiguousarray(_draw(layout, random_ND, image_size)[0].transpose(1, 2, 0))


def _draw(layout: Layout, random_ND: Numbers, image_size: int) -> Pixels:
    canvas_NCSS = backgrounds(random_ND[:, -BACKGROUND_RANDOM:], image_size)
    for place in range(MOST_OBJECTS):
        present = np.flatnonzero(layout.shapes[:, place] != ABSENT)
        if len(present):
            _paint(canvas_NCSS, present, layout.objects(present, place))
    return (canvas_NCSS + np.float32(0.5)).astype(np.uint8)


def _paint(canvas_NCSS: Floats, images_M: Ints, objects: Objects) -> None:
    """Lay an object over each of some images, by its stencil."""
    image_size = canvas_NCSS.shape[-1]
    window, quarter = image_size // 2, image_size / DESIGN_SIZE * PHASES
    rows_MW, from_rows_MW, down_M = _windows(objects.tops, window, quarter)
    columns_MW, from_columns_MW, right_M = _windows(objects.lefts, window, quarter)
    kinds = [each[:, None, None] for each in (objects.shapes, objects.sides, down_M, right_M)]
    cover_MWW = stencils(image_size)[*kinds, from_rows_MW[:, :, None], from_columns_MW[:, None, :]]
    channels = np.arange(3)[:, None, None]
    where = (images_M[:, None, None, None], channels, rows_MW[:, None, :, None], columns_MW[:, None, None, :])
    behind_MCWW = canvas_NCSS[where]
    paint_MC11 = RGB_P3[objects.paints][:, :, None, None]
    canvas_NCSS[where] = behind_MCWW + (paint_MC11 - behind_MCWW) * cover_MWW[:, None]


def _windows(starts: Numbers, window: int, quarter: float) -> tuple[Ints, Ints, Ints]:
    """Along one axis: the pixels of a window that holds the object, those of its stencil, and the stencil's phase.

    A window that would leave the image is moved back into it, and the object is then further down the window.
    """
    first, phase = np.divmod(np.round(starts * quarter).astype(np.int64), PHASES)
    inside, steps = np.minimum(first, window)[:, None], np.arange(window)
    return inside + steps, window - first[:, None] + inside + steps, phase


def _pick_captions(random_ND: Numbers) -> Ints:
    """A category, then one of its captions."""
    firsts, counts = _captions_by_tag()
    tags = (random_ND[:, 0] * len(TAGS)).astype(np.int64)
    return firsts[tags] + (random_ND[:, 1] * counts[tags]).astype(np.int64)


@lru_cache(maxsize=1)
def _captions_by_tag() -> tuple[Ints, Ints]:
    """Where the captions of each category begin, and how many they are."""
    tags = [scene.tag for scene in training_scenes()]
    return np.array([tags.index(tag) for tag in TAGS]), np.array([tags.count(tag) for tag in TAGS])


@lru_cache(maxsize=1)
def _training_captions() -> Said:
    return said_by(training_scenes())


def _random(seed: int, indices: Ints, count: int) -> Numbers:
    """The first `count` random numbers in 0..1 of some images: SplitMix64 at (seed, index, number).

    Unlike harness.randomness it makes them for many images at once: a generator for each would cost more than to draw.
    """
    start = _mixed(np.array([seed], np.uint64) * _GOLDEN + np.uint64(1))
    own = _mixed(start + indices.astype(np.uint64)[:, None] * _GOLDEN)
    bits = _mixed(own + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, np.float64)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's mixing of all bits."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
