"""An extractor of nine features, which counts how often it was asked, and can be killed midway."""

import numpy as np

from harness.comparability import ExtractorIdentity
from harness.extractor import Extractor, Features
from harness.images import Pixels

WIDTH = 9


class KilledError(Exception):
    """What a test raises where a process would have been killed."""


class TinyExtractor(Extractor):
    """Mean, deviation and largest value of each colour; one call is one piece of images."""

    def __init__(self, name: str = "timm/tiny", version: str = "1", dies_at: int | None = None) -> None:
        self.identity = ExtractorIdentity(name=name, version=version, weights_sha256="ab" * 32)
        self.calls: list[int] = []
        self.dies_at = dies_at

    def extract(self, pixels_NCHW: Pixels) -> Features:
        if len(self.calls) == self.dies_at:
            raise KilledError
        self.calls.append(len(pixels_NCHW))
        flat = pixels_NCHW.reshape(*pixels_NCHW.shape[:2], -1).astype(np.float32)
        pooled = np.concatenate([flat.mean(2), flat.std(2), flat.max(2)], axis=1)
        weights = np.exp(pooled[:, :4] / 64)
        return Features(pooled, spatial=pooled[:, :5] ** 2, probabilities=weights / weights.sum(1, keepdims=True))
