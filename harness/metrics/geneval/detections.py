"""What a detector finds in an image (no torch)."""

# n objects of a class, H height, W width

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Objects:
    """The objects of one class: `boxes` are (n, 5) of x1, y1, x2, y2 in pixels and the confidence; `masks` (n, H, W).

    No masks where nobody needs them.
    """

    boxes: Boxes
    masks: Masks | None = None


# By class; a class of which there is nothing may be absent.
Detections = Mapping[str, Objects]

# The colours of some objects of a class, given by their rows in its boxes.
ColorsOf = Callable[[str, Sequence[int]], Sequence[str]]
