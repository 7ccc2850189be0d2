"""Networks for tests of feature extractors: small where that can be, weights random, files as they are published."""

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from cleanfid import inception_pytorch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn
from torch.nn import functional

from harness.images import Pixels

SCRIPT = "inception-2015-12-05.pt"
HEIGHT, WIDTH = 80, 64


class Mixed(nn.Module):
    """A block of two branches, as the published file has them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(8, 12, 1), nn.ReLU())
        self.tower = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.tower(x)], 1)


class SmallInception(nn.Module):
    """The interface of inception-2015-12-05.pt, with maps of 17 x 17 where it has them; `shift` makes it another."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift
        self.layers = nn.Sequential(
            OrderedDict(
                conv=nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8, eps=0.001), nn.ReLU()),
                pool0=nn.AdaptiveAvgPool2d(17),
                mixed_6=Mixed(),
                mixed_10=nn.Sequential(nn.Conv2d(16, 2048, 1), nn.ReLU()),
                pool2=nn.AdaptiveAvgPool2d(1),
            )
        )
        self.output = nn.Linear(2048, 1008)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        theta = torch.eye(2, 3)
        theta[0, 2] += 1 / img.shape[3] - 1 / 299
        theta[1, 2] += 1 / img.shape[2] - 1 / 299
        size = [img.shape[0], 3, 299, 299]
        grid = functional.affine_grid(theta[None].repeat([img.shape[0], 1, 1]), size, align_corners=False)
        x = functional.grid_sample(img.to(torch.float32), grid, "bilinear", "border", align_corners=False)
        features: Tensor = self.layers((x - 128) / 128).reshape([-1, 2048]) + self.shift
        if return_features:
            return features
        if no_output_bias:
            return torch.softmax(functional.linear(features, self.output.weight), 1)
        return torch.softmax(self.output(features), 1)


def write_script(folder: Path, shift: float = 0.0) -> tuple[Path, SmallInception]:
    """A TorchScript file under the published name, and the network that is in it."""
    network = SmallInception(shift)
    spread(network)
    network.eval()
    jit: Any = torch.jit
    with warnings.catch_warnings(action="ignore"):
        jit.script(network).save(folder / SCRIPT)
    return folder / SCRIPT, network


def write_port(folder: Path) -> Path:
    """A state dict with the names of pytorch-fid's port, which torch-fidelity shares, at its full size."""
    loaded = mock.patch.object(nn.Module, "load_state_dict")
    fetched = mock.patch.object(inception_pytorch, "load_state_dict_from_url")
    with loaded, fetched, warnings.catch_warnings(action="ignore"):
        network: nn.Module = inception_pytorch.fid_inception_v3()
    spread(network)
    path = folder / "pt_inception.pth"
    torch.save(network.state_dict(), path)
    return path


def spread(network: nn.Module) -> None:
    """Random weights under which features neither vanish nor explode, and differ from image to image."""
    torch.manual_seed(0)
    for module in network.modules():
        part: Any = module
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(part.bias, std=0.1)
            nn.init.uniform_(part.running_mean, -0.1, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)


def images() -> Pixels:
    """Seven images (7, 3, 80, 64): four parts of photographs, two digits, one of noise."""
    photographs = load_sample_images().images
    parts = [photo[y : y + HEIGHT, x : x + WIDTH] for photo in photographs for y, x in ((100, 200), (300, 500))]
    for grey in load_digits().images[:2]:
        drawn = Image.fromarray((grey * 15).astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        parts.append(np.asarray(drawn.convert("RGB")))
    parts.append(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    return np.ascontiguousarray(np.stack(parts).transpose(0, 3, 1, 2))
