"""The captions of shapes-t2i that are learnt, the prompts that are held out, and the words of both (no torch).

Held out are combinations: (colour, shape) in `colors`, two shapes together in `two_object`, (shape, relation, shape)
in `position`, (count, shape) in `counting`, and two coloured shapes together in `color_attr`.  The prompts of
`single_object` cannot be: there are no more of them than shapes.  So that category says how well shapes are drawn,
the other five how well they are composed.
"""

from functools import lru_cache
from itertools import permutations
from typing import Final

from harness.errors import UserError
from harness.metrics.geneval.prompt import RELATIONS, Prompt
from harness.shapes import held_out
from harness.shapes.palette import PAINTS, SHAPES, SIZES
from harness.shapes.scenes import NUMBERS, Scene, Thing, plural

_FILLERS = ("a", "an", "photo", "of", "and", "left", "right", "above", "below")

# Number 0 is for padding, and is no word.
VOCABULARY: Final = ("", *_FILLERS, *NUMBERS.values(), *SIZES, *PAINTS, *SHAPES, *map(plural, SHAPES))
_NUMBER_OF = {word: number for number, word in enumerate(VOCABULARY) if word}

# "a photo of a red circle and a blue square"
LONGEST: Final = 10


@lru_cache(maxsize=1)
def training_scenes() -> tuple[Scene, ...]:
    """Everything that is learnt, in a fixed order, category by category."""
    return (*_single(), *_two(), *_counting(), *_colors(), *_position(), *_color_attr())


@lru_cache(maxsize=1)
def captions() -> tuple[str, ...]:
    """The caption of each training scene: all different."""
    return tuple(scene.caption for scene in training_scenes())


@lru_cache(maxsize=1)
def evaluation_scenes() -> tuple[Scene, ...]:
    """Everything that is held out, in GenEval's order of categories, and every shape alone before that."""
    pairs = [wording for pair in held_out.pairs() for wording in (pair, pair[::-1])]
    return (
        *(Scene("single_object", (Thing(shape),)) for shape in SHAPES),
        *(Scene("two_object", (Thing(a), Thing(b))) for a, b in pairs),
        *(Scene("counting", (Thing(shape),), count=count) for count, shape in held_out.counted()),
        *(Scene("colors", (Thing(shape, paint),)) for paint, shape in held_out.colored()),
        *(Scene("position", (Thing(a), Thing(b)), relation) for a, b, relation in held_out.placed()),
        *(Scene("color_attr", (Thing(a, x), Thing(b, y))) for (x, a), (y, b) in held_out.quadruples()),
    )


@lru_cache(maxsize=1)
def evaluation_prompts() -> tuple[Prompt, ...]:
    """The prompts of the held-out scenes."""
    return tuple(scene.prompt for scene in evaluation_scenes())


def words_of(text: str) -> tuple[int, ...]:
    """The numbers in VOCABULARY of a text's words, at most LONGEST; none for "".

    Raises UserError for a word that it does not hold, and for a text that is longer.
    """
    words = text.lower().split()
    if unknown := [word for word in words if word not in _NUMBER_OF]:
        raise UserError(f"shapes-t2i knows no word {unknown[0]!r}", f"its words: {' '.join(VOCABULARY[1:])}")
    if len(words) > LONGEST:
        raise UserError(f"{text!r} has {len(words)} words", f"shapes-t2i takes at most {LONGEST}")
    return tuple(_NUMBER_OF[word] for word in words)


def _single() -> list[Scene]:
    return [Scene("single_object", (Thing(shape, None, size),)) for shape in SHAPES for size in (None, *SIZES)]


def _two() -> list[Scene]:
    return [Scene("two_object", (Thing(a), Thing(b))) for a, b in _seen_in_both_orders()]


def _counting() -> list[Scene]:
    counted = [(count, shape) for shape in SHAPES for count in held_out.COUNTS]
    return [Scene("counting", (Thing(s),), count=n) for n, s in counted if (n, s) not in held_out.counted()]


def _colors() -> list[Scene]:
    seen = [(shape, paint) for shape in SHAPES for paint in held_out.seen_paints(shape)]
    return [Scene("colors", (Thing(shape, paint, size),)) for shape, paint in seen for size in (None, *SIZES)]


def _position() -> list[Scene]:
    placed = [(*pair, relation) for pair in _seen_in_both_orders() for relation in RELATIONS]
    return [Scene("position", (Thing(a), Thing(b)), r) for a, b, r in placed if (a, b, r) not in held_out.placed()]


def _color_attr() -> list[Scene]:
    kept = {frozenset(quadruple) for quadruple in held_out.quadruples()}
    seen = [each for pair in _seen_in_both_orders() for each in held_out.colorings(pair) if frozenset(each) not in kept]
    return [Scene("color_attr", (Thing(a, x), Thing(b, y))) for (x, a), (y, b) in seen]


def _seen_in_both_orders() -> list[held_out.Pair]:
    seen = held_out.seen_pairs()
    return [(a, b) for a, b in permutations(SHAPES, 2) if (a, b) in seen or (b, a) in seen]
