"""Random numbers as functions of (seed, stream, index): of nothing else, so a run can stop anywhere and be repeated."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What the numbers are for.  The values are part of every result: they may be added to, not changed."""

    DATA_ORDER = 1
    TRAINING = 2
    SAMPLING = 3
    PROBE = 4
    POSTERIOR = 5


def generator(seed: int, stream: Stream, index: int) -> np.random.Generator:
    """The generator of one training step, one epoch or one image (Philox: any two never overlap)."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, index]))
