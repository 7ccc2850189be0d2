"""Which combinations shapes-t2i keeps for evaluation: no training image shows them, no training caption names them.

Every shape, colour, count and relation occurs in training, each with most of the others.
"""

from functools import lru_cache
from itertools import combinations
from typing import Final

from harness.metrics.geneval.prompt import RELATIONS, Relation
from harness.shapes.palette import PAINTS, SHAPES

Colored = tuple[str, str]  # colour, shape
Placed = tuple[str, str, Relation]  # the first shape in a relation to the second
Pair = tuple[str, str]  # two shapes, in the order of SHAPES

COUNTS: Final = (2, 3, 4)
OPPOSITE: Final[dict[Relation, Relation]] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
_QUADRUPLES_PER_PAIR = 2


@lru_cache(maxsize=1)
def colored() -> tuple[Colored, ...]:
    """Two shapes of each colour, so chosen that each shape misses two or three colours."""
    places = [(paint, place) for number, paint in enumerate(PAINTS) for place in (number, number + 2 + number // 4)]
    return tuple((paint, SHAPES[place % len(SHAPES)]) for paint, place in places)


@lru_cache(maxsize=1)
def pairs() -> tuple[Pair, ...]:
    """Neighbours in the circle of shapes: each shape is never seen together with two others."""
    neighbours = {frozenset((shape, SHAPES[number - 1])) for number, shape in enumerate(SHAPES)}
    return tuple(pair for pair in combinations(SHAPES, 2) if frozenset(pair) in neighbours)


@lru_cache(maxsize=1)
def placed() -> tuple[Placed, ...]:
    """One arrangement of each pair that is seen together, in both of its wordings."""
    chosen = [(*pair, RELATIONS[number % len(RELATIONS)]) for number, pair in enumerate(seen_pairs())]
    both = [((a, b, relation), (b, a, OPPOSITE[relation])) for a, b, relation in chosen]
    return tuple(wording for wordings in both for wording in wordings)


@lru_cache(maxsize=1)
def counted() -> tuple[tuple[int, str], ...]:
    """One count of each shape."""
    return tuple((COUNTS[number % len(COUNTS)], shape) for number, shape in enumerate(SHAPES))


@lru_cache(maxsize=1)
def quadruples() -> tuple[tuple[Colored, Colored], ...]:
    """Some colourings of each pair that is seen together; every colour is seen on these shapes."""
    chosen = []
    for number, pair in enumerate(seen_pairs()):
        choices = colorings(pair)
        for turn in range(_QUADRUPLES_PER_PAIR):
            one, two = choices[(number * 5 + turn * len(choices) // _QUADRUPLES_PER_PAIR) % len(choices)]
            chosen.append((two, one) if turn % 2 else (one, two))
    return tuple(chosen)


def seen_pairs() -> list[Pair]:
    """The pairs of shapes that training images show together."""
    return [pair for pair in combinations(SHAPES, 2) if pair not in pairs()]


def seen_paints(shape: str) -> list[str]:
    """The colours in which training images show a shape."""
    return [paint for paint in PAINTS if (paint, shape) not in colored()]


def colorings(pair: Pair) -> list[tuple[Colored, Colored]]:
    """Two different colours for two shapes, each one in which that shape is seen."""
    first, second = pair
    return [((a, first), (b, second)) for a in seen_paints(first) for b in seen_paints(second) if a != b]
