"""A folder's images, or the digits, as an encoder sees them: batch after batch, none kept."""

# N batch, C channels, S side of the encoder's input

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.data import digits, read_one, spread_evenly
from harness.encoder import Encoder
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.folder import bytes_of, images_below
from harness.images import Pixels
from harness.tasks import DIGITS_FINGERPRINT

DIGITS = "digits"
BATCH_BYTES, MOST_AT_ONCE = 256 * 2**20, 64


@dataclass(frozen=True)
class ImageStream:
    """Images of one size, in a fixed order.  `paths` are empty for the digits.

    `fingerprint` changes with their names and their sizes in bytes.
    """

    paths: tuple[Path, ...]
    chosen: npt.NDArray[np.int64]
    fingerprint: str
    side: int
    channels: int

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, encoder: Encoder, size: int, most: int | None = None) -> Iterator[Tensor]:
        """Normalised pixels, (N, C, S, S), on the encoder's device: of all, or of `most` images spread over them.

        Raises UserError for an image that cannot be read.
        """
        indices = self.chosen if most is None else self.chosen[spread_evenly(most, len(self))]
        for start in range(0, len(indices), size):
            images = torch.from_numpy(np.stack([self._read(index) for index in indices[start : start + size]]))
            yield encoder.normalised(images.to(encoder.mean.device) / 255)

    def _read(self, index: int) -> Pixels:
        if not self.paths:
            pixels: Pixels = digits().shards[0][index]
            return pixels
        return read_one(self.paths[index], self.side, self.channels)


def open_stream(place: str, encoder: EncoderDefinition, most: int) -> ImageStream:
    """At most `most` images of a folder and all below it, or of "digits", spread evenly over them.

    They are cropped as ADM does to the encoder's input.  Raises UserError where there are none, or of other channels.
    """
    channels = 1 if place == DIGITS else 3
    if encoder.channels != channels:
        raise UserError(
            f"{encoder.name} sees images of {encoder.channels} channels, and those of {place} have {channels}",
            "--data digits is for digits-vit, folders are for the others",
        )
    if place == DIGITS:
        count = len(digits())
        return ImageStream((), spread_evenly(most, count), DIGITS_FINGERPRINT, encoder.image_size, channels)
    paths = tuple(images_below(Path(place).expanduser()))
    chosen = spread_evenly(most, len(paths))
    told = [f"{paths[index].name} {bytes_of(paths[index])}" for index in chosen]
    fingerprint = hashlib.sha256(os.fsencode("\n".join(told))).hexdigest()[:16]
    return ImageStream(paths, chosen, fingerprint, encoder.image_size, channels)


def at_once(encoder: EncoderDefinition) -> int:
    """How many images' activations, of all layers, may be in memory together."""
    one = 4 * encoder.depth * (encoder.grid**2 + encoder.num_prefix_tokens + 1) * encoder.hidden
    return max(1, min(MOST_AT_ONCE, BATCH_BYTES // one))
