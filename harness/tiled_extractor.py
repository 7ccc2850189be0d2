"""The extractor around a network: one image at a time is prepared, a fixed number at a time goes through it."""

# N images, T images of a tile, C channels, H height, W width, F features, S spatial features, K classes

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.comparability import ExtractorIdentity
from harness.errors import UserError
from harness.extractor import Extractor, Features, Matrix32
from harness.images import Pixels

TILE = 32
MOST_WORKERS = 8
GREY, COLOUR = 1, 3


class Seen(NamedTuple):
    """What a network makes of T inputs: (T, F), and (T, S) and (T, K) where it gives them."""

    pooled: Tensor
    spatial: Tensor | None = None
    probabilities: Tensor | None = None


@dataclass(frozen=True)
class TiledExtractor(Extractor):
    """`prepare` makes the network's input of one image, (C, H, W) in 0..255; `network` takes `tile` of them stacked.

    A product of matrices may round differently when its shape differs: the last tile is filled up with its last
    image, and on a CPU the features of an image are the same bits in any batch.  On a GPU neither TF32 nor a choice
    of algorithm by timing changes them.
    """

    identity: ExtractorIdentity
    prepare: Callable[[Pixels], Tensor]
    network: Callable[[Tensor], Seen]
    device: torch.device
    tile: int = TILE

    def extract(self, pixels_NCHW: Pixels) -> Features:
        assert pixels_NCHW.dtype == np.uint8
        assert pixels_NCHW.ndim == 4
        assert len(pixels_NCHW), "no images, no features"
        with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_WORKERS)) as workers:
            tiles = [
                self._look(list(workers.map(self.prepare, pixels_NCHW[start : start + self.tile])))
                for start in range(0, len(pixels_NCHW), self.tile)
            ]
        pooled, spatial, probabilities = zip(*tiles, strict=True)
        return Features(np.concatenate(pooled), _joined(spatial), _joined(probabilities))

    def _look(self, inputs: list[Tensor]) -> tuple[Matrix32, Matrix32 | None, Matrix32 | None]:
        full = inputs + [inputs[-1]] * (self.tile - len(inputs))
        with torch.inference_mode(), _same_bits(self.device):
            seen = self.network(torch.stack(full).to(self.device))
        pooled, spatial, probabilities = (
            None if part is None else part[: len(inputs)].float().cpu().numpy() for part in seen
        )
        assert pooled is not None
        return pooled, spatial, probabilities


def in_colour(pixels_CHW: Pixels) -> Pixels:
    """One image in three channels: a grey one in three that are equal.  Raises UserError for any other number."""
    channels = len(pixels_CHW)
    if channels not in (GREY, COLOUR):
        raise UserError(
            f"this extractor looks at grey or RGB images, these have {channels} channels",
            "give images of 1 or 3 channels (an alpha channel must be taken off)",
        )
    return pixels_CHW.repeat(COLOUR, axis=0) if channels == GREY else pixels_CHW


def _joined(parts: tuple[Matrix32 | None, ...]) -> Matrix32 | None:
    given = [part for part in parts if part is not None]
    return np.concatenate(given) if given else None


@contextmanager
def _same_bits(device: torch.device) -> Iterator[None]:
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    convolutions = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    try:
        with torch.autocast(device.type, enabled=False), convolutions:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products
