"""Diffusion registers: learned tokens that enter the denoiser late and leave it before the last layer."""

# N batch, L tokens, K registers, D width

import torch
from torch import Tensor, nn

from harness.denoiser import Denoiser, Registers
from harness.positions import register_positions
from harness.spec import DenoiserRegisters


class RegisterSet(nn.Module):
    """K learned tokens, drawn from N(0, 1), with a fixed 2-D sin-cos position: (1, K, D)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, count, width))
        self.position = nn.Parameter(torch.tensor(register_positions(count, width))[None], requires_grad=False)

    def forward(self, like_NLD: Tensor) -> Tensor:
        registers_1KD = self.tokens + self.position
        return registers_1KD.to(like_NLD.dtype).expand(len(like_NLD), -1, -1)


class DiffusionRegisters(Registers):
    """DSR's denoiser stage (arXiv 2605.05206; LightningDiT and DDT of its code).

    In the first trunk `count` registers join the patches before block `start_block`; in each later trunk, whose width
    may differ, as many fresh ones join before its first block.  They pass through the same blocks under the same
    modulation as the patches, rotary positions leave them alone, and they are cut off after the last block.
    """

    def __init__(self, config: DenoiserRegisters, denoiser: Denoiser) -> None:
        super().__init__()
        first, *later = denoiser.trunks
        entries = {config.start_block: first.width} | {trunk.start: trunk.width for trunk in later}
        self.count = config.count
        self.sets = nn.ModuleDict({str(block): RegisterSet(config.count, width) for block, width in entries.items()})

    def enter(self, index: int, tokens_NLD: Tensor) -> Tensor:
        name = str(index)
        if name not in self.sets:
            return tokens_NLD
        return torch.cat([tokens_NLD, self.sets[name](tokens_NLD)], dim=1)

    def leave(self, tokens_NLD: Tensor) -> Tensor:
        return tokens_NLD[:, : -self.count]

    def present(self, index: int) -> int:
        return self.count if index >= min(map(int, self.sets)) else 0
