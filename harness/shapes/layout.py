"""Which objects an image holds, and where: a caption's words as they are, everything else at random (no torch)."""

# N images, C captions, K objects an image at most, D random numbers an image

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.metrics.geneval.prompt import RELATIONS
from harness.shapes import held_out
from harness.shapes.palette import ALL_SIDES, DESIGN_SIZE, PAINTS, SHAPES, SIDES, SIZES
from harness.shapes.scenes import Scene

MOST_OBJECTS: Final = 4
ABSENT: Final = -1
UNSAID: Final = -1

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

# The centres of objects are on three lines of either axis: few places, so that minutes are enough to learn them.
_LINES = np.array([1, 2, 3]) * DESIGN_SIZE / 4
_OUTER = _LINES[[0, 2]]
_SIDEWAYS = [RELATIONS.index("left of"), RELATIONS.index("right of")]
_FURTHER = [RELATIONS.index("right of"), RELATIONS.index("below")]

_SIDES = np.array(ALL_SIDES)
# The first and the number of the sides in ALL_SIDES of each size, and last of any.
_SIDES_OF = np.array([*((ALL_SIDES.index(SIDES[size][0]), len(SIDES[size])) for size in SIZES), (0, len(ALL_SIDES))])
# The quarters of an image in any order.
_QUARTERS = np.array(list(permutations(range(4))))

# Two shapes, in any order; equal ones are in no image as such.
_PAIRS = list(product(SHAPES, SHAPES))

# The places of an image's random numbers.
_PAINT, _QUARTER, _RELATION = 0, 1, 2
_DOWN, _RIGHT = 3, 4
_SIDE, _OWN_PAINT = slice(5, 9), slice(9, 13)
NUM_RANDOM: Final = 13


@dataclass(frozen=True)
class Objects:
    """Objects by their places in SHAPES, PAINTS and ALL_SIDES; `tops` and `lefts` in pixels of a 32 x 32 image."""

    shapes: Ints
    paints: Ints
    sides: Ints
    tops: Numbers
    lefts: Numbers


@dataclass(frozen=True)
class Layout(Objects):
    """The objects of n images, (N, K) each, ABSENT in `shapes` where there are fewer than K."""

    def objects(self, images: Ints, place: int) -> Objects:
        """Those that some images have at a place."""
        return Objects(*(each[images, place] for each in (self.shapes, self.paints, self.sides, self.tops, self.lefts)))


@dataclass(frozen=True)
class Said:
    """What captions say, UNSAID where they do not: (C, K) shapes, paints and sizes, (C,) relations and counts."""

    shapes: Ints
    paints: Ints
    sizes: Ints
    relations: Ints
    counts: Ints

    def of(self, chosen: Ints) -> "Said":
        """What the captions of these numbers say."""
        return Said(*(each[chosen] for each in (self.shapes, self.paints, self.sizes, self.relations, self.counts)))


def said_by(scenes: Sequence[Scene]) -> Said:
    """The captions of some scenes as numbers."""
    things = [scene.things * scene.count for scene in scenes]
    return Said(
        np.array([_padded([SHAPES.index(t.shape) for t in each]) for each in things]),
        np.array([_padded([PAINTS.index(t.color) if t.color else UNSAID for t in each]) for each in things]),
        np.array([_padded([SIZES.index(t.size) if t.size else UNSAID for t in each]) for each in things]),
        np.array([RELATIONS.index(scene.relation) if scene.relation else UNSAID for scene in scenes]),
        np.array([len(each) for each in things]),
    )


def lay_out(said: Said, random_ND: Numbers) -> Layout:
    """The images of some captions, from NUM_RANDOM numbers in 0..1 for each.

    One object is at any of nine places, two are level with each other, more are in quarters of the image of their own.
    Nothing that is held out is chosen for what captions leave open: no colour, no colours together, no relation.
    """
    sides = _pick_sides(said, random_ND)
    lengths = _SIDES[sides]
    alone, together = said.counts == 1, _is_pair(said)
    rows, columns = _in_quarters(random_ND)
    rows[alone, 0], columns[alone, 0] = (_on_a_line(random_ND[alone, place]) for place in (_DOWN, _RIGHT))
    rows[together, :2], columns[together, :2] = _in_relation(
        _pick_relations(said, random_ND)[together], random_ND[together]
    )
    return Layout(
        said.shapes, _pick_paints(said, random_ND), sides, tops=rows - lengths / 2, lefts=columns - lengths / 2
    )


def _is_pair(said: Said) -> npt.NDArray[np.bool_]:
    return np.asarray((said.counts == 2) & (said.shapes[:, 0] != said.shapes[:, 1]))


def _pick_sides(said: Said, random_ND: Numbers) -> Ints:
    first, count = np.moveaxis(_SIDES_OF[said.sizes], -1, 0)
    return np.asarray(first + (random_ND[:, _SIDE] * count).astype(np.int64))


def _pick_paints(said: Said, random_ND: Numbers) -> Ints:
    """Colours that are said, else one each in which the shape is seen; of two shapes, colours seen together."""
    drawn = _choose(_paint_choices(), said.shapes.clip(0), random_ND[:, _OWN_PAINT])
    together = _choose(_pair_choices(), _both(said), random_ND[:, _PAINT])
    drawn[:, :2] = np.where(_is_pair(said)[:, None], together, drawn[:, :2])
    return np.where(said.paints == UNSAID, drawn, said.paints)


def _pick_relations(said: Said, random_ND: Numbers) -> Ints:
    drawn = _choose(_relation_choices(), _both(said), random_ND[:, _RELATION])
    return np.where(said.relations == UNSAID, drawn, said.relations)


def _both(said: Said) -> Ints:
    """The places of the first two shapes among all ordered pairs; of no meaning where there is no second."""
    return np.asarray(said.shapes[:, 0] * len(SHAPES) + said.shapes[:, 1].clip(0))


def _choose(table: tuple[Ints, Ints], places: Ints, random: Numbers) -> Ints:
    """One of the choices of each place."""
    choices, counts = table
    return choices[places, (random * counts[places]).astype(np.int64)]


def _in_quarters(random_ND: Numbers) -> tuple[Numbers, Numbers]:
    """The centres' rows and columns of objects in different quarters of the image."""
    down, right = np.divmod(_QUARTERS[(random_ND[:, _QUARTER] * len(_QUARTERS)).astype(np.int64)], 2)
    return _OUTER[down], _OUTER[right]


def _in_relation(relations: Ints, random_ND: Numbers) -> tuple[Numbers, Numbers]:
    """The centres' rows and columns of two objects in the two halves of the image, level with each other."""
    sideways, first_is_further = (np.isin(relations, each)[:, None] for each in (_SIDEWAYS, _FURTHER))
    along = _OUTER[np.where(first_is_further, [[1, 0]], [[0, 1]])]
    across = np.repeat(_on_a_line(random_ND[:, _RIGHT])[:, None], 2, axis=1)
    return np.where(sideways, across, along), np.where(sideways, along, across)


def _on_a_line(random: Numbers) -> Numbers:
    return _LINES[(random * len(_LINES)).astype(np.int64)]


@lru_cache(maxsize=1)
def _paint_choices() -> tuple[Ints, Ints]:
    return _table([[PAINTS.index(paint) for paint in held_out.seen_paints(shape)] for shape in SHAPES])


@lru_cache(maxsize=1)
def _pair_choices() -> tuple[Ints, Ints]:
    """For each two shapes the colours (first, second) in which they are seen together, equal ones too."""
    kept = {frozenset(quadruple) for quadruple in held_out.quadruples()}
    return _table([[_places(each) for each in _seen_colored(pair) if frozenset(each) not in kept] for pair in _PAIRS])


def _seen_colored(pair: held_out.Pair) -> list[tuple[held_out.Colored, held_out.Colored]]:
    first, second = pair
    return [((x, first), (y, second)) for x in held_out.seen_paints(first) for y in held_out.seen_paints(second)]


def _places(colored: tuple[held_out.Colored, held_out.Colored]) -> tuple[int, int]:
    (first, _), (second, _) = colored
    return PAINTS.index(first), PAINTS.index(second)


@lru_cache(maxsize=1)
def _relation_choices() -> tuple[Ints, Ints]:
    """For each two shapes the relations of the first to the second in which they are seen."""
    kept = set(held_out.placed())
    return _table([[n for n, relation in enumerate(RELATIONS) if (*pair, relation) not in kept] for pair in _PAIRS])


def _table(rows: Sequence[Sequence[int] | Sequence[tuple[int, int]]]) -> tuple[Ints, Ints]:
    """Rows of unequal lengths as one array, and their lengths."""
    longest = max(map(len, rows))
    return np.array([[*row, *[row[0]] * (longest - len(row))] for row in rows]), np.array([len(row) for row in rows])


def _padded(numbers: list[int]) -> list[int]:
    return numbers + [ABSENT] * (MOST_OBJECTS - len(numbers))
