"""Diffusion registers: tokens that enter the denoiser at a block and leave it before the last layer.

Sources: DSR (arXiv 2605.05206, LightningDiT and DDT of its code), learned vectors on a fixed 2-D grid; Just-a-DiT,
plain learned vectors from the first block; JiT (arXiv 2511.13720), the class embedding with learned positions.
"""

# N batch, L tokens, K registers, D width

import torch
from torch import Tensor, nn

from harness.denoiser import Denoiser, Registers
from harness.positions import register_positions
from harness.registers import DenoiserRegisters


class RegisterSet(nn.Module):
    """K tokens, learned or the class embedding, with a position or without: (N, K, D)."""

    def __init__(self, config: DenoiserRegisters, width: int, *, takes_label: bool) -> None:
        super().__init__()
        self.count, self.takes_label = config.count, takes_label
        if not takes_label:
            self.tokens = nn.Parameter(torch.randn(1, config.count, width) * config.init_std)
        if config.position == "sin-cos":
            table = torch.tensor(register_positions(config.count, width))[None]
            self.position = nn.Parameter(table, requires_grad=False)
        elif config.position == "learned":
            self.position = nn.Parameter(torch.randn(1, config.count, width) * config.init_std)
        else:
            self.register_parameter("position", None)

    def forward(self, tokens_NLD: Tensor, label_ND: Tensor) -> Tensor:
        content = label_ND[:, None, :] if self.takes_label else self.tokens
        if self.position is not None:
            content = content + self.position
        return content.to(tokens_NLD.dtype).expand(len(tokens_NLD), self.count, -1)


class DiffusionRegisters(Registers):
    """Registers in every trunk of a denoiser.

    In the first trunk `count` registers join the patches before block `start_block`; in each later trunk, whose width
    may differ, as many fresh, learned ones join before its first block.  They pass through the same blocks under the
    same modulation as the patches, rotary positions leave them alone, and they are cut off after the last block.
    """

    def __init__(self, config: DenoiserRegisters, denoiser: Denoiser) -> None:
        super().__init__()
        first, *later = denoiser.trunks
        takes_label = config.content == "class"
        sets = {str(config.start_block): RegisterSet(config, first.width, takes_label=takes_label)}
        sets |= {str(trunk.start): RegisterSet(config, trunk.width, takes_label=False) for trunk in later}
        self.count, self.start_block = config.count, config.start_block
        self.sets = nn.ModuleDict(sets)

    def enter(self, index: int, tokens_NLD: Tensor, label_ND: Tensor) -> Tensor:
        name = str(index)
        if name not in self.sets:
            return tokens_NLD
        return torch.cat([tokens_NLD, self.sets[name](tokens_NLD, label_ND)], dim=1)

    def leave(self, tokens_NLD: Tensor) -> Tensor:
        return tokens_NLD[:, : -self.count]

    def present(self, index: int) -> int:
        return self.count if index >= self.start_block else 0
