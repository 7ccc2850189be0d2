"""Where boxes lie to each other: how far two overlap, and in which direction one lies from the other (no torch).

All of it is single precision, as the official tool has it: whether a value passes a threshold depends on that.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from harness.metrics.geneval.prompt import RELATIONS, Relation

# x1, y1, x2, y2 in pixels; what follows is not looked at.
Box = npt.NDArray[np.float32]
Pair = npt.NDArray[np.float32]

# In pixels: a smaller distance has no direction.
NO_DISTANCE: Final = 1e-3
# A direction of length 1 counts along an axis where it goes further than this along it: two axes may count at once.
ENOUGH: Final = 0.5


def overlap(box: Box, other: Box) -> np.float32:
    """Intersection over union, 0 without any area.  The last pixels belong to a box: its width is x2 - x1 + 1."""
    shared = _area(np.maximum(box[:2], other[:2]), np.minimum(box[2:4], other[2:4]))
    covered = _area(box[:2], box[2:4]) + _area(other[:2], other[2:4]) - shared
    return shared / covered if covered > 0 else np.float32(0)


def relations(box: Box, other: Box, threshold: float) -> tuple[Relation, ...]:
    """Where `box` lies as seen from `other`: none, one or two of RELATIONS, in their order.

    What counts of the distance between the centres is, along each axis, what exceeds `threshold` times both sizes.
    It is divided by the whole distance, not by what is left of it: large boxes must lie further along an axis.
    """
    distance = _center(box) - _center(other)
    margin = np.float32(threshold) * (_size(box) + _size(other))
    beyond = np.maximum(np.abs(distance) - margin, 0) * np.sign(distance)
    if (np.abs(beyond) < NO_DISTANCE).all():
        return ()
    x, y = beyond / np.linalg.norm(distance)
    holds = {"left of": x < -ENOUGH, "right of": x > ENOUGH, "above": y < -ENOUGH, "below": y > ENOUGH}
    return tuple(relation for relation in RELATIONS if holds[relation])


def _area(first: Pair, last: Pair) -> np.float32:
    width, height = np.maximum(last - first + 1, 0)
    return np.float32(width * height)


def _center(box: Box) -> Pair:
    center: Pair = (box[:2] + box[2:4]) / np.float32(2)
    return center


def _size(box: Box) -> Pair:
    size: Pair = np.abs(box[2:4] - box[:2])
    return size
