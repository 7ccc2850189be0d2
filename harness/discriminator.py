"""RAE's discriminator: which patches of an image look real, by a frozen encoder's features."""

# N batch, K channels of an image, H height, W width, D width of the encoder, L its patches, B blocks looked at

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from harness.encoder import Encoder
from harness.errors import UserError

# RAE's, for DINO ViT-S/8: after each third of its twelve blocks.
BLOCKS = (2, 5, 8, 11)
KERNEL = 9
SLOPE = 0.2
VIRTUAL_BATCH = 8
NORM_EPSILON, SPECTRAL_EPSILON = 1e-6, 1e-12


class Discriminator(nn.Module):
    """Images in [0, 1], (N, K, H, W), to one judgement for each patch and each block, (N, B L): above 0 is real.

    As in StyleGAN-T, with two differences: the last block's features are used once, and images are not augmented.
    Only `heads` are trained.
    """

    def __init__(self, encoder: Encoder, blocks: Sequence[int] = BLOCKS) -> None:
        super().__init__()
        # In a list, so that the encoder's weights are neither trained nor part of a checkpoint.
        self._encoder = [encoder]
        self.blocks = tuple(blocks)
        self.heads = nn.ModuleList(_head(encoder.width) for _ in blocks)

    def forward(self, images_NKHW: Tensor) -> Tensor:
        encoder = self._encoder[0]
        seen: dict[int, Tensor] = {}

        def keep(layer: int, tokens_NLD: Tensor) -> None:
            if layer in self.blocks:
                seen[layer] = encoder.patches(tokens_NLD).transpose(1, 2)

        encoder(encoder.normalised(images_NKHW), keep)
        judgements = [head(seen[block]).flatten(1) for head, block in zip(self.heads, self.blocks, strict=True)]
        return torch.cat(judgements, dim=1)


def fresh_discriminator(encoder: Encoder, seed: int, blocks: Sequence[int] = BLOCKS) -> Discriminator:
    """A discriminator whose weights follow from the seed, on its encoder's device; torch's generator stays as it was.

    Raises UserError where the encoder has not so many blocks.
    """
    if max(blocks) >= encoder.depth:
        raise UserError(
            f"the discriminator looks at block {max(blocks)}, {encoder.definition.name} has {encoder.depth} blocks",
            "give it an encoder of the size of DINO ViT-S, or train without it (adversarial_weight=0)",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Discriminator(encoder, blocks).to(encoder.mean.device)


class _LocalNorm(nn.Module):
    """Batch normalisation over virtual batches, where the batch divides into them; else over the whole batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features_NDL: Tensor) -> Tensor:
        count = len(features_NDL)
        size = VIRTUAL_BATCH if count % VIRTUAL_BATCH == 0 else count
        grouped = features_NDL.reshape(-1, size, *features_NDL.shape[1:])
        mean = grouped.mean((1, 3), keepdim=True)
        variance = grouped.var((1, 3), keepdim=True, unbiased=False)
        normal_NDL: Tensor = ((grouped - mean) / (variance + NORM_EPSILON).sqrt()).flatten(0, 1)
        return normal_NDL * self.weight[:, None] + self.bias[:, None]


class _Residual(nn.Module):
    """(x + f(x)) / sqrt(2)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, features_NDL: Tensor) -> Tensor:
        summed: Tensor = features_NDL + self.branch(features_NDL)
        return summed / 2**0.5


def _head(width: int) -> nn.Module:
    """(N, D, L) to (N, 1, L)."""
    return nn.Sequential(_block(width, 1), _Residual(_block(width, KERNEL)), _convolution(width, 1, 1))


def _block(width: int, kernel: int) -> nn.Module:
    return nn.Sequential(_convolution(width, width, kernel), _LocalNorm(width), nn.LeakyReLU(SLOPE))


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Module:
    convolution = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="circular")
    return spectral_norm(convolution, eps=SPECTRAL_EPSILON)
