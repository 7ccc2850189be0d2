"""The seam between images and metrics: what turns pixels into features."""

# N images, C channels, H height, W width, F features, S spatial features, K classes

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.comparability import ExtractorIdentity
from harness.images import Pixels

Matrix32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """What was seen in N images: pooled features (N, F), and more where the extractor gives it.

    `spatial` are flattened feature maps (N, S), for sFID; `probabilities` those of classes (N, K), for Inception Score.
    """

    pooled: Matrix32
    spatial: Matrix32 | None = None
    probabilities: Matrix32 | None = None


class Extractor(ABC):
    """Something that looks at images.  The features of an image depend on that image alone, not on its batch."""

    identity: ExtractorIdentity

    @abstractmethod
    def extract(self, pixels_NCHW: Pixels) -> Features:
        """The features of N images of 8 bits, in their order; any N, memory bounded by a batch of the extractor's."""
