"""GenEval's rules: does an image, in which these objects were detected, show what its prompt asks for? (no torch)

The only file that decides.  The rules, and the words of the reasons, are the official ones (arXiv 2310.11513).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product, zip_longest
from typing import Final

import numpy as np

from harness.frozen import Fraction, Frozen, NonNegativeFloat, PositiveInt
from harness.metrics.geneval.detections import Boxes, ColorsOf, Detections, Objects
from harness.metrics.geneval.geometry import Box, overlap, relations
from harness.metrics.geneval.prompt import COLORS, Clause, Prompt
from harness.metrics.geneval.verdicts import FoundObject, ImageVerdict

Group = tuple[FoundObject, ...]

_CONFIDENCE: Final = 4


class Options(Frozen):
    """What may be set; the defaults are official.

    An object counts where its confidence is above `threshold`, or above `counting_threshold` where the prompt's tag is
    "counting"; of each class at most the `max_objects` most confident.  A `max_overlap` below 1 leaves out objects that
    overlap so much with a more confident one.  Where something lies is a question of what its distance has beyond
    `position_threshold` times the sizes.
    """

    threshold: Fraction = 0.3
    counting_threshold: Fraction = 0.9
    max_objects: PositiveInt = 16
    max_overlap: Fraction = 1.0
    position_threshold: NonNegativeFloat = 0.1

    def words(self) -> str:
        """All of them in words, as a record's basis has them."""
        confidence = f"confidence > {self.threshold:g} (counting > {self.counting_threshold:g})"
        place = f"place beyond {self.position_threshold:g} of sizes"
        return f"{confidence}, {place}, overlap < {self.max_overlap:g}, at most {self.max_objects} of a class"


OFFICIAL: Final = Options()


def decide(prompt: Prompt, detections: Detections, colors_of: ColorsOf, options: Options = OFFICIAL) -> ImageVerdict:
    """Whether an image is right, and otherwise every reason against it.

    The verdict follows from what is `found` alone, in the form in which it is stored: anybody can decide again.
    """
    found = _find(prompt, detections, colors_of, options)
    reasons = [*_against_included(prompt, found, options), *_against_excluded(prompt, found)]
    return ImageVerdict(correct=not reasons, reason="\n".join(reasons), found=found)


def kept(objects: Objects, tag: str, options: Options = OFFICIAL) -> list[int]:
    """The rows of the objects of a class that count, most confident first, and the last of equally confident ones.

    Confidences are compared in single precision: exactly 0.3 is not above 0.3.
    """
    threshold = np.float32(options.counting_threshold if tag == "counting" else options.threshold)
    confidences = objects.boxes[:, _CONFIDENCE]
    by_confidence = np.argsort(confidences, kind="stable")[::-1]
    confident = [int(row) for row in by_confidence if confidences[row] > threshold]
    return _without_overlaps(objects.boxes, confident[: options.max_objects], options.max_overlap)


def _without_overlaps(boxes: Boxes, rows: Sequence[int], most: float) -> list[int]:
    if most >= 1:
        return list(rows)
    chosen: list[int] = []
    for row in rows:
        if all(overlap(boxes[row], boxes[other]) < np.float32(most) for other in chosen):
            chosen.append(row)
    return chosen


def _find(prompt: Prompt, detections: Detections, colors_of: ColorsOf, options: Options) -> dict[str, Group]:
    """The objects that count, of the classes that the prompt names; no class of which there are none."""
    found = {}
    for name in dict.fromkeys(clause.object_class for clause in (*prompt.include, *prompt.exclude)):
        rows = kept(detections[name], prompt.tag, options) if name in detections else []
        if rows:
            asked = rows[: _num_colored(prompt, name, len(rows))]
            colors = colors_of(name, asked) if asked else []
            assert len(colors) == len(asked)
            boxes = detections[name].boxes[rows]
            found[name] = tuple(_stored(box, color) for box, color in zip_longest(boxes, colors))
    return found


def _num_colored(prompt: Prompt, name: str, available: int) -> int:
    """How many objects of a class must be asked for their colour: none for a clause that fails for want of objects."""
    counts = [clause.count for clause in prompt.include if clause.object_class == name and clause.color is not None]
    return max((count for count in counts if count <= available), default=0)


def _stored(box: Box, color: str | None) -> FoundObject:
    """With each number as the shortest decimal that is the same in single precision."""
    x1, y1, x2, y2, confidence = (float(str(number)) for number in box)
    return x1, y1, x2, y2, confidence, color


def _against_included(prompt: Prompt, found: Mapping[str, Group], options: Options) -> Iterator[str]:
    """At most one reason for each clause.

    A clause is about the `count` most confident objects of its class, whether or not another clause is about them too.
    `groups` has the objects of each clause so far, None where it failed: others cannot be placed relative to those.
    """
    groups: list[Group | None] = []
    for clause in prompt.include:
        group = found.get(clause.object_class, ())[: clause.count]
        reason = (
            _too_few(clause, group)
            or _wrong_color(clause, group)
            or _wrong_place(clause, group, groups, options.position_threshold)
        )
        groups.append(None if reason else group)
        if reason:
            yield reason


def _too_few(clause: Clause, group: Group) -> str | None:
    if len(group) >= clause.count:
        return None
    return f"expected {clause.object_class}>={clause.count}, found {len(group)}"


def _wrong_color(clause: Clause, group: Group) -> str | None:
    if clause.color is None:
        return None
    colors = [color for *_, color in group]
    matching = colors.count(clause.color)
    if matching >= clause.count:
        return None
    seen = ", ".join(f"{colors.count(color)} {color}" for color in COLORS if color in colors)
    return f"expected {clause.color} {clause.object_class}>={clause.count}, found {matching} {clause.color}; and {seen}"


def _wrong_place(clause: Clause, group: Group, groups: Sequence[Group | None], threshold: float) -> str | None:
    """Every object of the clause must lie so of every object of its target; the first that does not is the reason.

    A clause that failed is no target, nor is one that comes later.
    """
    if clause.position is None:
        return None
    relation, number = clause.position
    target = groups[number] if number < len(groups) else None
    if target is None:
        return f"no target for {clause.object_class} to be {relation}"
    for mine, theirs in product(group, target):
        seen = relations(_box(mine), _box(theirs), threshold)
        if relation not in seen:
            return f"expected {clause.object_class} {relation} target, found {' and '.join(seen)} target"
    return None


def _box(found: FoundObject) -> Box:
    return np.array(found[:_CONFIDENCE], np.float32)


def _against_excluded(prompt: Prompt, found: Mapping[str, Group]) -> Iterator[str]:
    for clause in prompt.exclude:
        number = len(found.get(clause.object_class, ()))
        if number >= clause.count:
            yield f"expected {clause.object_class}<{clause.count}, found {number}"
