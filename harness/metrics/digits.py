"""The small classifier that judges digits.

FD-digits is the Fréchet distance of its features.  It is no FID: other features, other images, not comparable with any
published number.
"""

# N batch, F features

import hashlib
from functools import lru_cache
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from harness.digits_judge import WEIGHTS_SHA256
from harness.errors import UserError

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


@lru_cache(maxsize=1)
def extractor() -> DigitsExtractor:
    """The shipped classifier; raises UserError where its file is missing or is not the one this code was made for."""
    if not WEIGHTS.exists() or hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise UserError(f"{WEIGHTS} is missing or not the file that this version ships", "install dsr-bench again")
    network = DigitsExtractor()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()
