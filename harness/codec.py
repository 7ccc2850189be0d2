"""Between images and what a denoiser sees: the seam of all latents."""

# N batch, C channels, H height, W width, Z channels of a latent, h and w its height and width

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.tiles import in_tiles


class Codec(ABC):
    """Between images and what the denoiser sees, in float32 whatever the training's precision is.

    An image becomes moments, which may be kept, and moments become the latents of one training step.
    `identity` is a digest of all that decides the moments; `weights_sha256` that of the weights file, where there is
    one.  `is_cached` says that moments are worth computing once, `draws` that latents depend on noise.
    """

    is_cached = False
    draws = False
    weights_sha256: str | None = None

    def __init__(self, identity: Mapping[str, Any], moments_shape: tuple[int, int, int], device: torch.device) -> None:
        self.identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.moments_shape = moments_shape
        self.device = device

    @abstractmethod
    def moments(self, images_NCHW: Tensor) -> Tensor:
        """What may be kept of images in [-1, 1], (N, *moments_shape), without a gradient."""

    @abstractmethod
    def latents(self, moments: Tensor, noise_NZhw: Tensor) -> Tensor:
        """What the denoiser is trained on, (N, Z, h, w); the noise is standard normal, of the same shape."""

    @abstractmethod
    def decode(self, latents_NZhw: Tensor) -> Tensor:
        """Images, (N, C, H, W) in about [-1, 1], without a gradient."""


@torch.no_grad()
def exactly(network: Callable[[Tensor], Tensor], inputs: Tensor, tile: int) -> Tensor:
    """The same bits in any batch, on a CPU, and at any precision of the training."""
    with _full_float32(inputs.device):
        return in_tiles(network, tile, inputs.float())


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32, whose error of a thousandth may exceed the width of a VAE's posterior."""
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    exact_convolutions = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    try:
        with torch.autocast(device.type, enabled=False), exact_convolutions:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products
