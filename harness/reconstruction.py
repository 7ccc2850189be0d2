"""How much of an image comes back from its latents."""

# N images, n batch, K channels, H height, W width

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.data import Images
from harness.progress import Progress

ERROR_FLOOR = 1e-10
BATCH = 64

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reconstruction:
    """Of each image, (N,): PSNR in dB, at most 100, and the mean absolute and squared errors of values in [0, 1]."""

    psnr: Numbers
    l1: Numbers
    l2: Numbers


def errors_of(images_NKHW: Tensor, returned_NKHW: Tensor) -> Reconstruction:
    """The errors of images that came back, in float64; what lies outside [0, 1] is clamped, as a file would.

    PSNR = 20 log10(1 / sqrt(max(squared error, 1e-10))), of each image.
    """
    difference = (returned_NKHW.double().clamp(0, 1) - images_NKHW.double()).flatten(1)
    l1, l2 = difference.abs().mean(1).cpu().numpy(), difference.square().mean(1).cpu().numpy()
    return Reconstruction(-10 * np.log10(np.maximum(l2, ERROR_FLOOR)), l1, l2)


@torch.no_grad()
def measure(
    reconstruct: Callable[[Tensor], Tensor], images: Images, indices: npt.NDArray[np.int64], device: torch.device
) -> Reconstruction:
    """The errors of decode(encode(x)), which `reconstruct` is, of these images: (n, K, H, W) in [0, 1] to the same."""
    parts = []
    with Progress("reconstructing images", len(indices)) as progress:
        for start in range(0, len(indices), BATCH):
            pixels_nKHW = torch.from_numpy(images.pixels(indices[start : start + BATCH])).to(device) / 255
            parts.append(errors_of(pixels_nKHW, reconstruct(pixels_nKHW)))
            progress.advance(len(pixels_nKHW))
    return Reconstruction(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("psnr", "l1", "l2")))
