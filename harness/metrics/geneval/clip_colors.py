"""Name the colour of an object by asking CLIP, as the official tool does."""

# n objects, E width of an embedding, K colours

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from PIL import Image

from harness.comparability import ExtractorIdentity
from harness.extractor import Matrix32
from harness.metrics.clip import Clip
from harness.metrics.geneval.color_prompts import color_prompts
from harness.metrics.geneval.crops import crop_for_color
from harness.metrics.geneval.detections import Objects
from harness.metrics.geneval.prompt import COLORS

SCALE: Final = np.float32(100)


@dataclass(frozen=True)
class ColorNamer:
    """A CLIP that is open, with the embeddings of the colours of each class that was asked for so far."""

    clip: Clip
    _colors_of_class: dict[str, Matrix32] = field(default_factory=dict, repr=False)

    @property
    def identity(self) -> ExtractorIdentity:
        return self.clip.identity

    def name(self, image: Image.Image, class_name: str, objects: Objects, rows: Sequence[int]) -> list[str]:
        """The colours of some objects of a class in an upright image: of equally likely ones the first of COLORS."""
        crops = [
            crop_for_color(image, objects.boxes[row], None if objects.masks is None else objects.masks[row])
            for row in rows
        ]
        logits_nK = SCALE * self.clip.image_features(crops) @ self.colors_of(class_name).T
        return [COLORS[index] for index in logits_nK.argmax(1)]

    def colors_of(self, class_name: str) -> Matrix32:
        """The ten colours of a class, (K, E), of length 1: the mean of the embeddings of their texts."""
        if class_name not in self._colors_of_class:
            means = [self.clip.text_features(color_prompts(class_name, color)).mean(0) for color in COLORS]
            colors_KE: Matrix32 = np.stack([mean_E / np.linalg.norm(mean_E) for mean_E in means])
            self._colors_of_class[class_name] = colors_KE
        return self._colors_of_class[class_name]
