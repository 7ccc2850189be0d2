"""Small encoders for tests, with register neurons that were put into them on purpose."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from harness import encoder_network
from harness.encoder import Encoder
from harness.encoder_weights import save
from harness.encoders import HALF, EncoderDefinition

Neurons = dict[int, tuple[int, ...]]

FIRST: Neurons = {1: (7, 40)}
SECOND: Neurons = {3: (11,)}
MARKED = 20


def definition(*, class_token: bool = False, registers: int = 0, family: str = "siglip") -> EncoderDefinition:
    """A ViT of 4 blocks 32 wide, 64 neurons each, on a grid of 6 x 6."""
    return EncoderDefinition.model_validate(
        {
            "name": "small",
            "title": "a small ViT",
            "family": family,
            "image_size": 48,
            "patch": 8,
            "width": 32,
            "depth": 4,
            "heads": 4,
            "hidden": 64,
            "table": 6,
            "class_token": class_token,
            "registers": registers,
            "mean": HALF,
            "std": HALF,
        }
    )


def small_encoder(chosen: EncoderDefinition | None = None, seed: int = 0) -> Encoder:
    """An encoder with random weights."""
    torch.manual_seed(seed)
    chosen = chosen or definition()
    encoder = Encoder(chosen, encoder_network.build(chosen))
    for name, weight in encoder.named_parameters():
        if weight.ndim > 1 and "pos_embed" not in name:
            torch.nn.init.normal_(weight, std=0.12)
    return encoder


def planted_encoder(chosen: EncoderDefinition | None = None) -> Encoder:
    """One in which a patch unlike the others becomes an outlier, by the neurons FIRST, and later by SECOND."""
    encoder = small_encoder(chosen)
    plant(encoder, FIRST, strength=30.0)
    plant(encoder, SECOND, strength=20.0)
    return encoder


def plant(encoder: Encoder, neurons: Neurons, strength: float) -> None:
    """Make neurons fire where a token looks unlike the others of its image, and write much into it."""
    marked, plain = images(1)[0], images(1, marked=0)[0]
    with torch.no_grad():
        for layer, chosen in neurons.items():
            seen: list[Tensor] = []
            block = block_of(encoder, layer)
            hook = block.mlp.fc1.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
            encoder(encoder.normalised(torch.stack([marked, plain])))
            hook.remove()
            patch = encoder.num_prefix_tokens + MARKED
            direction = seen[0][0, patch] - seen[0].mean((0, 1))
            height = float(direction @ direction)
            for neuron in chosen:
                block.mlp.fc1.weight[neuron] = 8 * direction / height
                block.mlp.fc1.bias[neuron] = -8 * float(direction @ seen[0].mean((0, 1))) / height - 4
                column = torch.randn(encoder.width, generator=torch.Generator().manual_seed(neuron))
                block.mlp.fc2.weight[:, neuron] = strength * column / column.norm()


def make_sinks(encoder: Encoder, layer: int, neurons: tuple[int, ...]) -> None:
    """Let every token attend to outliers that these neurons made, in all later layers, as trained encoders do."""
    with torch.no_grad():
        direction = block_of(encoder, layer).mlp.fc2.weight[:, list(neurons)].sum(dim=1)
        direction /= direction.norm()
        width, heads = encoder.width, encoder.definition.heads
        for later in range(layer + 1, encoder.depth):
            qkv = block_of(encoder, later).attn.qkv
            for head in range(heads):
                row = head * width // heads
                qkv.weight[row] = 0
                qkv.bias[row] = 3.0
                qkv.weight[width + row] = 1.5 * direction


def block_of(encoder: Encoder, layer: int) -> Any:
    """A block of timm's, whose types say nothing."""
    blocks: Any = encoder.vit.blocks
    return blocks[layer]


def images(count: int, marked: int = MARKED) -> Tensor:
    """Soft images, (N, 3, 48, 48) in [0, 1], each with one checked patch at the place `marked` (0: none)."""
    random = np.random.default_rng(0)
    soft = random.uniform(0.4, 0.6, (count, 3, 6, 6)).repeat(8, axis=2).repeat(8, axis=3)
    if marked:
        row, column = divmod(marked, 6)
        soft[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = _checked()
    return torch.from_numpy(soft.astype(np.float32))


def _checked() -> npt.NDArray[np.float64]:
    pixels: npt.NDArray[np.float64] = 0.5 + 0.12 * (np.indices((8, 8)).sum(0) % 2 - 0.5) * np.ones((3, 1, 1))
    return pixels


def image_files(folder: Path, count: int = 12) -> Path:
    """The images as PNG files, in one folder without classes."""
    folder.mkdir(parents=True)
    for index, image in enumerate(images(count)):
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


def encoder_folder(folder: Path) -> Path:
    """The planted encoder as a folder that `--encoder` takes."""
    save(planted_encoder(), folder)
    return folder
