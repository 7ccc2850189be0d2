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
    """K tokens, learned, the class embedding or zeros, with a position or without: (N, K, D)."""

    def __init__(self, config: DenoiserRegisters, width: int) -> None:
        super().__init__()
        self.count, self.content = config.count, config.content
        if config.content == "learned":
            self.tokens = nn.Parameter(torch.randn(1, config.count, width) * config.init_std)
        if config.position == "sin-cos":
            table = torch.tensor(register_positions(config.count, width))[None]
            self.position = nn.Parameter(table, requires_grad=False)
        elif config.position == "learned":
            self.position = nn.Parameter(torch.randn(1, config.count, width) * config.init_std)
        else:
            self.register_parameter("position", None)

    def forward(self, tokens_NLD: Tensor, label_ND: Tensor) -> Tensor:
        content = self._content(tokens_NLD, label_ND)
        if self.position is not None:
            content = content + self.position
        return content.to(tokens_NLD.dtype).expand(len(tokens_NLD), self.count, -1)

    def _content(self, tokens_NLD: Tensor, label_ND: Tensor) -> Tensor:
        match self.content:
            case "class":
                return label_ND[:, None, :]
            case "zero":
                return tokens_NLD.new_zeros(1, 1, tokens_NLD.shape[-1])
            case "learned":
                return self.tokens


class DiffusionRegisters(Registers):
    """Registers in every trunk of a denoiser.

    In the first trunk `count` registers join the patches before block `start_block`; in each later trunk, whose width
    may differ, as many fresh ones join before its first block, learned where the first hold the class.  They pass
    through the same blocks under the same modulation as the patches, rotary positions leave them alone, and they are
    cut off after the last block.
    """

    def __init__(self, config: DenoiserRegisters, denoiser: Denoiser) -> None:
        super().__init__()
        first, *later = denoiser.trunks
        without_label = config.model_copy(update={"content": "learned"}) if config.content == "class" else config
        sets = {str(config.start_block): RegisterSet(config, first.width)}
        sets |= {str(trunk.start): RegisterSet(without_label, trunk.width) for trunk in later}
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
