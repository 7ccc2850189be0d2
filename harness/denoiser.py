"""The seam: where a backbone, which knows no registers, and registers, which know no backbone, meet."""

# N batch, L tokens, D width, C channels, H height, W width of the input

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Trunk:
    """A run of blocks of one width, from block `start` on.  A denoiser has one, DiT-DH has two."""

    start: int
    depth: int
    width: int


class Registers(nn.Module, ABC):
    """Extra tokens that ride at the END of the sequence, so that no backbone's own indexing shifts."""

    @abstractmethod
    def enter(self, index: int, tokens_NLD: Tensor) -> Tensor:
        """The sequence that block `index` receives."""

    @abstractmethod
    def leave(self, tokens_NLD: Tensor) -> Tensor:
        """The patch tokens alone, after the last block."""

    @abstractmethod
    def present(self, index: int) -> int:
        """How many registers follow the patches in the output of block `index`."""


class NoRegisters(Registers):
    """No registers: no parameter, no key, no operation."""

    def enter(self, index: int, tokens_NLD: Tensor) -> Tensor:  # noqa: ARG002
        return tokens_NLD

    def leave(self, tokens_NLD: Tensor) -> Tensor:
        return tokens_NLD

    def present(self, index: int) -> int:  # noqa: ARG002
        return 0


def watch_nothing(index: int, tokens_NLD: Tensor) -> None:
    """The watcher of a forward pass that nobody watches."""


class Denoiser(nn.Module, ABC):
    """A diffusion transformer: `embed`, then `step` for each block, then `decode`.

    A family implements those three; what `condition` holds is its own affair, and `step` may replace it, as the head
    of DiT-DH does.  Set `trunks`, `null_label` (None without a class for "no class") and `patch_tokens`.
    """

    registers: Registers
    trunks: tuple[Trunk, ...]
    null_label: int | None
    patch_tokens: int

    def __init__(self) -> None:
        super().__init__()
        self.registers = NoRegisters()

    @property
    def depth(self) -> int:
        """The number of blocks of all trunks together."""
        return sum(trunk.depth for trunk in self.trunks)

    @abstractmethod
    def embed(self, x_NCHW: Tensor, t_N: Tensor, y_N: Tensor) -> tuple[Tensor, Any]:
        """Patch tokens (N, L, D) and the condition of the blocks."""

    @abstractmethod
    def step(self, index: int, tokens_NLD: Tensor, condition: Any) -> tuple[Tensor, Any]:
        """Block `index`, over patches and whatever rides behind them."""

    @abstractmethod
    def decode(self, tokens_NLD: Tensor, condition: Any) -> Tensor:
        """The prediction (N, C, H, W) from the patch tokens."""

    def forward(
        self,
        x_NCHW: Tensor,
        t_N: Tensor,
        y_N: Tensor,
        watch: Callable[[int, Tensor], None] = watch_nothing,
    ) -> Tensor:
        """The network's prediction at its own time t and for labels y; `watch` sees each block's output tokens."""
        tokens_NLD, condition = self.embed(x_NCHW, t_N, y_N)
        for index in range(self.depth):
            tokens_NLD = self.registers.enter(index, tokens_NLD)
            tokens_NLD, condition = self.step(index, tokens_NLD, condition)
            watch(index, tokens_NLD)
        return self.decode(self.registers.leave(tokens_NLD), condition)
