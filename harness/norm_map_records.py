"""What the norm maps beside a record say of themselves: which blocks, noise levels and images (no torch)."""

from typing import Final

from harness.frozen import Fraction, Frozen, NonNegativeInt, PositiveInt

# The one entry of the file's metadata.
SAID: Final = "norm maps"
MOST_IMAGES, MOST_LEVELS, LONGEST_SIDE = 4, 5, 256


class NormMapsSaid(Frozen):
    """The metadata of norm maps: `blocks` of a network of `depth` are kept, of images of these numbers in the data.

    `noise_levels` are all that were probed; the file's `times` are some of them.
    """

    blocks: tuple[NonNegativeInt, ...]
    depth: PositiveInt
    noise_levels: tuple[Fraction, ...]
    image_numbers: tuple[NonNegativeInt, ...]


def shown_side(side: int) -> int:
    """The side of a probed image in the file: whole squares of pixels together, until it is at most LONGEST_SIDE."""
    return side // -(-side // LONGEST_SIDE)
