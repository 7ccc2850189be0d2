"""How close generated digits come to the real ones, in the eyes of a small classifier that the project trained.

The metric is called FD-digits.  It is no FID: other features, other images, not comparable with any published number.
"""

# N batch, F features

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from harness.comparability import Basis, GuidanceUsed
from harness.data import Labels, digits
from harness.digits_judge import EXTRACTOR, REFERENCE, WEIGHTS_SHA256
from harness.errors import UserError
from harness.images import Pixels, to_unit
from harness.metrics.frechet import Moments, frechet_distance, moments
from harness.records import Measurement

WEIGHTS = Path(__file__).with_name("digits_extractor.safetensors")
FEATURES = 64
BATCH = 250


class DigitsExtractor(nn.Module):
    """A classifier of 8 x 8 digits.  `features` are the 64 numbers before its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.hidden = nn.Linear(32 * 4 * 4, FEATURES)
        self.classes = nn.Linear(FEATURES, 10)

    def features(self, x_NCHW: Tensor) -> Tensor:
        """(N, 1, 8, 8) in [-1, 1] to (N, F)."""
        maps = functional.relu(self.conv2(functional.relu(self.conv1(x_NCHW))))
        features_NF: Tensor = functional.relu(self.hidden(maps.flatten(1)))
        return features_NF

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits: Tensor = self.classes(self.features(x_NCHW))
        return logits


def measure(pixels: Pixels, labels: Labels, guidance: GuidanceUsed) -> list[Measurement]:
    """FD-digits against all 1,797 real digits, and the share of images seen as the digit that was asked for."""
    features, seen = _look(pixels)
    note = f"all 1,797 digits as reference; features of {WEIGHTS.name} {WEIGHTS_SHA256[:12]}; not an FID"
    return [
        Measurement(
            name="fd_digits",
            value=frechet_distance(moments(features), _reference()),
            unit="squared feature distance",
            better="lower",
            num_images=len(pixels),
            note=note,
            basis=Basis(extractor=EXTRACTOR, reference=REFERENCE, guidance=guidance),
        ),
        Measurement(
            name="digits_accuracy",
            value=float((seen == labels).mean()),
            unit="share of images",
            better="higher",
            num_images=len(pixels),
            note=note,
            basis=Basis(extractor=EXTRACTOR, guidance=guidance),
        ),
    ]


@lru_cache(maxsize=1)
def extractor() -> DigitsExtractor:
    """The shipped classifier; raises UserError where its file is missing or is not the one this code was made for."""
    if not WEIGHTS.exists() or hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise UserError(f"{WEIGHTS} is missing or not the file that this version ships", "install dsr-bench again")
    network = DigitsExtractor()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


@lru_cache(maxsize=1)
def _reference() -> Moments:
    images = digits()
    return moments(_look(images.pixels(np.arange(len(images))))[0])


def _look(pixels: Pixels) -> tuple[npt.NDArray[np.float32], Labels]:
    """Features (N, F) and classes (N,), in batches of one shape so that no image depends on how many there are."""
    features, classes = [], []
    for start in range(0, len(pixels), BATCH):
        rows = np.arange(start, start + BATCH).clip(max=len(pixels) - 1)
        with torch.no_grad():
            batch_NF = extractor().features(torch.from_numpy(to_unit(pixels[rows])))
            scores = extractor().classes(batch_NF)
        kept = len(pixels) - start
        features.append(batch_NF[:kept].numpy())
        classes.append(scores[:kept].argmax(1).numpy())
    return np.concatenate(features), np.concatenate(classes)
