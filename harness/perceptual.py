"""The perceptual part of RAE's stage 1: LPIPS, where its weights can be had."""

# N batch, K channels, H height, W width

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.decoders import DecoderRecipe, DecoderShape
from harness.errors import UserError
from harness.files import sha256_of
from harness.progress import say

# Below this, what VGG's last layers see is a few pixels, most of them padding.
SMALLEST_SIDE = 64
WITHOUT = "train without it (lpips_weight=0)"


class Perceptual(ABC):
    """How different two batches of images look.  `weight` is what it counts in the loss."""

    weight: float

    @abstractmethod
    def __call__(self, images_NKHW: Tensor, decoded_NKHW: Tensor) -> Tensor:
        """One number; images are in [0, 1], decoded ones about so."""


class NoPerceptual(Perceptual):
    """None: it counts nothing."""

    weight = 0.0

    def __call__(self, images_NKHW: Tensor, decoded_NKHW: Tensor) -> Tensor:
        del decoded_NKHW
        return images_NKHW.new_zeros(())


class Lpips(Perceptual):
    """LPIPS on VGG-16's features, the mean over the batch."""

    def __init__(self, weight: float, device: torch.device) -> None:
        self.weight = weight
        metric = importlib.import_module("torchmetrics.image.lpip").LearnedPerceptualImagePatchSimilarity
        # The network itself: the metric around it refuses decoded images that leave [0, 1].
        self._network: Any = metric(net_type="vgg").net.to(device)

    def __call__(self, images_NKHW: Tensor, decoded_NKHW: Tensor) -> Tensor:
        distance: Tensor = self._network(decoded_NKHW, images_NKHW, normalize=True).mean()
        return distance


def perceptual_of(recipe: DecoderRecipe, shape: DecoderShape, device: torch.device) -> Perceptual:
    """What a recipe asks for.  Where it says so, and LPIPS cannot be had, it is left out: the result's weight is 0.

    Raises UserError where LPIPS is required and its weights are not there, or the images do not suit it.
    """
    if recipe.lpips_weight == 0:
        return NoPerceptual()
    trouble = _trouble(shape)
    if trouble is None:
        return Lpips(recipe.lpips_weight, device)
    if recipe.lpips == "required":
        raise trouble
    say(f"LPIPS is left out of the loss: {trouble.problem}")
    return NoPerceptual()


def weights_file() -> Path:
    """Where torchvision looks for VGG-16.  Raises UserError where torchvision is not there."""
    try:
        url: str = importlib.import_module("torchvision.models").VGG16_Weights.DEFAULT.url
    except ImportError as error:
        raise UserError(
            f"LPIPS needs torchvision, which cannot be imported: {error}", "pip install torchvision"
        ) from error
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def _trouble(shape: DecoderShape) -> UserError | None:
    """Why LPIPS cannot be had; None where it can."""
    if shape.image_channels != 3 or shape.image_size < SMALLEST_SIDE:
        return UserError(
            f"LPIPS compares colour images of {SMALLEST_SIDE} x {SMALLEST_SIDE} or more, these have "
            f"{shape.image_channels} channels of {shape.image_size} x {shape.image_size}",
            WITHOUT,
        )
    try:
        file = weights_file()
        importlib.import_module("torchmetrics.image.lpip")
    except UserError as error:
        return error
    except ImportError as error:
        return UserError(f"LPIPS is torchmetrics', which cannot be imported: {error}", "pip install torchmetrics")
    by_hand = f"put torchvision's {file.name} there, or {WITHOUT}"
    if not file.is_file():
        return UserError(f"LPIPS needs the weights of VGG-16, and there is no {file}", by_hand)
    if not sha256_of(file).startswith(file.stem.rsplit("-", 1)[1]):
        return UserError(f"{file} is damaged: its content does not match its name", by_hand)
    return None
