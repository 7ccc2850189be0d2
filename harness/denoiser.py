"""The seam: where backbones, registers and prompts, which do not know each other, meet."""

# N batch, L tokens, D width, C channels, H height, W width of the input; T tokens of a prompt, E their width

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
    def enter(self, index: int, tokens_NLD: Tensor, label_ND: Tensor) -> Tensor:
        """The sequence that block `index` receives; `label_ND` embeds the class, in the first trunk's width."""

    @abstractmethod
    def leave(self, tokens_NLD: Tensor) -> Tensor:
        """The sequence without registers, after the last block."""

    @abstractmethod
    def present(self, index: int) -> int:
        """How many registers end the output of block `index`."""


class NoRegisters(Registers):
    """No registers: no parameter, no key, no operation."""

    def enter(self, index: int, tokens_NLD: Tensor, label_ND: Tensor) -> Tensor:  # noqa: ARG002
        return tokens_NLD

    def leave(self, tokens_NLD: Tensor) -> Tensor:
        return tokens_NLD

    def present(self, index: int) -> int:  # noqa: ARG002
        return 0


@dataclass(frozen=True)
class Said:
    """What a text encoder made of prompts: `tokens` (N, T, E), which are `present` (N, T), and `pooled` (N, E)."""

    tokens: Tensor
    present: Tensor
    pooled: Tensor


class Prompts(nn.Module, ABC):
    """How what was asked for reaches the blocks.  Labels are numbers of prompts; text tokens are no registers.

    Behind the patches and a backbone's own tokens come those of the text, where they are in the sequence at all, and
    registers behind these.
    """

    def prepare(self) -> None:
        """Read or compute whatever takes long, before the first forward pass."""

    @abstractmethod
    def read(self, y_N: Tensor) -> Said | None:
        """What the prompts of these numbers say; None where labels are classes."""

    @abstractmethod
    def label(self, embed_label: Callable[[Tensor], Tensor], y_N: Tensor, said: Said | None) -> Tensor:
        """The vector (N, D) that stands for what was asked for, in the first trunk's width."""

    @abstractmethod
    def join(self, trunk: Trunk, tokens_NLD: Tensor, said: Said | None) -> Tensor:
        """The sequence that a trunk begins with."""

    @abstractmethod
    def attend(self, index: int, tokens_NLD: Tensor, said: Said | None) -> Tensor:
        """The sequence, registers included, after it has looked at the text, before block `index`."""

    @abstractmethod
    def leave(self, tokens_NLD: Tensor) -> Tensor:
        """The sequence without text, once the registers have left it."""

    @property
    @abstractmethod
    def present(self) -> int:
        """How many text tokens stand before the registers in every block's output."""


class NoPrompts(Prompts):
    """Labels are classes: no parameter, no key, no operation."""

    def read(self, y_N: Tensor) -> Said | None:  # noqa: ARG002
        return None

    def label(self, embed_label: Callable[[Tensor], Tensor], y_N: Tensor, said: Said | None) -> Tensor:  # noqa: ARG002
        return embed_label(y_N)

    def join(self, trunk: Trunk, tokens_NLD: Tensor, said: Said | None) -> Tensor:  # noqa: ARG002
        return tokens_NLD

    def attend(self, index: int, tokens_NLD: Tensor, said: Said | None) -> Tensor:  # noqa: ARG002
        return tokens_NLD

    def leave(self, tokens_NLD: Tensor) -> Tensor:
        return tokens_NLD

    @property
    def present(self) -> int:
        return 0


def watch_nothing(index: int, tokens_NLD: Tensor) -> None:
    """The watcher of a forward pass that nobody watches."""


def count_every_patch(data_NCHW: Tensor, times_N: Tensor) -> float:  # noqa: ARG001
    """The weight of the training loss when no patch is left out."""
    return 1.0


def keep_every_norm(tokens_NLD: Tensor) -> Tensor:
    """The tokens of a network in which nothing is clamped."""
    return tokens_NLD


class Denoiser(nn.Module, ABC):
    """A diffusion transformer: `embed`, then `step` for each block, then `decode`.

    A family implements those and `embed_label`; what `condition` holds is its own affair.  Between two trunks, as
    before the head of DiT-DH, `hand_over` makes the tokens and the condition of the next.  Set `trunks`, `null_label`
    (None without a class for "no class") and `patch_tokens`.  `loss_weight` maps clean data (N, C, H, W) and times,
    (N,), to the weight of the data's elements in the training loss; `clamp` is what becomes of each block's output in
    evaluation mode, that is in sampling and probing.
    """

    registers: Registers
    prompts: Prompts
    trunks: tuple[Trunk, ...]
    null_label: int | None
    patch_tokens: int
    loss_weight: Callable[[Tensor, Tensor], Tensor | float]
    clamp: Callable[[Tensor], Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.registers = NoRegisters()
        self.prompts = NoPrompts()
        self.loss_weight = count_every_patch
        self.clamp = keep_every_norm

    @property
    def depth(self) -> int:
        """The number of blocks of all trunks together."""
        return sum(trunk.depth for trunk in self.trunks)

    @abstractmethod
    def embed_label(self, y_N: Tensor) -> Tensor:
        """The embedding of the class alone, (N, D)."""

    @abstractmethod
    def embed(self, x_NCHW: Tensor, t_N: Tensor, label_ND: Tensor) -> tuple[Tensor, Any]:
        """Patch tokens (N, L, D) and the condition of the blocks."""

    @abstractmethod
    def step(self, index: int, tokens_NLD: Tensor, condition: Any) -> Tensor:
        """Block `index`, over patches and whatever rides behind them."""

    def hand_over(self, tokens_NLD: Tensor, condition: Any) -> tuple[Tensor, Any]:
        """What the next trunk receives from the last one's output."""
        return tokens_NLD, condition

    @abstractmethod
    def decode(self, tokens_NLD: Tensor, condition: Any) -> Tensor:
        """The prediction (N, C, H, W) from the patch tokens."""

    def forward(
        self,
        x_NCHW: Tensor,
        t_N: Tensor,
        y_N: Tensor,
        watch: Callable[[int, Tensor], None] = watch_nothing,
        *,
        with_registers: bool = True,
    ) -> Tensor:
        """The network's prediction at its own time t and for labels y; `watch` sees what each block hands on."""
        registers, prompts = self.registers if with_registers else _ABSENT, self.prompts
        clamp = keep_every_norm if self.training else self.clamp
        said = prompts.read(y_N)
        label_ND = prompts.label(self.embed_label, y_N, said)
        tokens_NLD, condition = self.embed(x_NCHW, t_N, label_ND)
        for trunk in self.trunks:
            if trunk.start:
                tokens_NLD, condition = self.hand_over(tokens_NLD, condition)
            tokens_NLD = prompts.join(trunk, tokens_NLD, said)
            for index in range(trunk.start, trunk.start + trunk.depth):
                tokens_NLD = registers.enter(index, tokens_NLD, label_ND)
                tokens_NLD = prompts.attend(index, tokens_NLD, said)
                tokens_NLD = clamp(self.step(index, tokens_NLD, condition))
                watch(index, tokens_NLD)
        return self.decode(prompts.leave(registers.leave(tokens_NLD)), condition)


_ABSENT = NoRegisters()
