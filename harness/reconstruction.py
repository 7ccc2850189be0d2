"""How much of an image comes back from its latents."""

# N images, n batch, K channels, H height, W width

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.data import Images
from harness.progress import Progress

ERROR_FLOOR = 1e-10
BATCH = 64
# SSIM's window reaches five pixels beyond each edge, by reflection: the image must be wider than that.
SMALLEST_SIDE = 6

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reconstruction:
    """Of each image, (N,): PSNR in dB, at most 100, and the mean absolute and squared errors of values in [0, 1].

    `ssim`, at most 1, is None for images of fewer than six pixels a side, which have none.
    """

    psnr: Numbers
    l1: Numbers
    l2: Numbers
    ssim: Numbers | None


def errors_of(images_NKHW: Tensor, returned_NKHW: Tensor) -> Reconstruction:
    """The errors of images that came back, in float64; what lies outside [0, 1] is clamped, as a file would.

    PSNR = 20 log10(1 / sqrt(max(squared error, 1e-10))), of each image.
    """
    images, returned = images_NKHW.double(), returned_NKHW.double().clamp(0, 1)
    difference = (returned - images).flatten(1)
    l1, l2 = difference.abs().mean(1).cpu().numpy(), difference.square().mean(1).cpu().numpy()
    return Reconstruction(-10 * np.log10(np.maximum(l2, ERROR_FLOOR)), l1, l2, structural_similarity(images, returned))


def structural_similarity(images_NKHW: Tensor, returned_NKHW: Tensor) -> Numbers | None:
    """SSIM of each image in [0, 1], the mean over all of its pixels; None for images that are too small.

    A Gaussian window of 11 x 11 pixels (sigma 1.5), reflected at the edges: torchmetrics, from 1.9 on.
    """
    if min(images_NKHW.shape[2:]) < SMALLEST_SIDE:
        return None
    ssim = importlib.import_module("torchmetrics.functional.image").structural_similarity_index_measure
    found_N = ssim(returned_NKHW, images_NKHW, data_range=1.0, reduction="none")
    similarities: Numbers = found_N.reshape(len(images_NKHW)).cpu().numpy()
    return similarities


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
    return Reconstruction(*(_joined([getattr(part, name) for part in parts]) for name in ("psnr", "l1", "l2", "ssim")))


def _joined(parts: Sequence[Any]) -> Any:
    """Numbers of all batches; None where there are none of any."""
    return None if parts[0] is None else np.concatenate(parts)
