"""What a family of backbones says of itself, without torch: the facts that `list`, `resolve` and the records need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.errors import UserError
from harness.spec import Frozen, NonNegativeInt, Objective, PositiveInt, Recipe, Sampler, Task

if TYPE_CHECKING:
    from harness.denoiser import Denoiser


class Network(Frozen):
    """A denoiser's dimensions: `input_size` squared with `in_channels`, cut into patches of `patch_size` squared."""

    input_size: PositiveInt
    in_channels: PositiveInt
    num_classes: PositiveInt
    patch_size: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    num_heads: PositiveInt
    mlp_ratio: float = Field(default=4.0, gt=0)

    @property
    def patch_tokens(self) -> int:
        """How many tokens the patches make."""
        return (self.input_size // self.patch_size) ** 2

    @property
    def predicted_channels(self) -> int:
        """How many channels a forward pass returns."""
        return self.in_channels

    @property
    def has_null_class(self) -> bool:
        """Whether there is an embedding for "no class", without which labels cannot be dropped."""
        return True

    def check(self) -> None:
        """Raise UserError where these dimensions do not fit together."""
        if self.input_size % self.patch_size:
            raise UserError(
                f"patches of {self.patch_size} do not tile an input of {self.input_size}",
                "choose a size with another patch, or an image size that is a multiple of it",
            )
        if self.width % self.num_heads:
            raise UserError(
                f"a width of {self.width} does not divide into {self.num_heads} heads",
                "set network.width to a multiple of network.num_heads",
            )
        if self.width % 4:
            raise UserError(
                f"the 2-D sin-cos positions need a width divisible by 4, not {self.width}",
                "set network.width to a multiple of 4",
            )

    def on(self, task: Task) -> "Network":
        """The same network with the input and the classes of a task."""
        return self.model_copy(
            update={
                "input_size": task.image_size,
                "in_channels": task.channels,
                "num_classes": task.num_classes,
            }
        )


@dataclass(frozen=True)
class Backbone:
    """One family: its sizes, its official training and sampling, and how to build it.

    `sizes` maps a size's name (`xl-2`) to the official network, `build` makes the torch module of one of them, and
    `encoder` names the transformer that makes the latents, or is None where none does: then there is nothing that
    encoder registers could be put into.  `native_tokens` counts the extra tokens that the official network has of
    its own accord, so that its row without registers can say so.
    """

    name: str
    title: str
    source: str
    sizes: Mapping[str, Network]
    objective: Objective
    recipe: Recipe
    sampler: Sampler
    build: Callable[[Mapping[str, Any]], "Denoiser"]
    latents: str
    encoder: str | None = None
    native_tokens: NonNegativeInt = 0

    def size(self, name: str) -> Network:
        """The network of one size; raises UserError with the sizes that there are."""
        if name not in self.sizes:
            raise unknown_size(self, name)
        return self.sizes[name]


def unknown_size(backbone: Backbone, name: str) -> UserError:
    """The error for a size that the family does not have."""
    return UserError(
        f"{backbone.title} has no size {name!r}",
        f"known: {', '.join(f'{backbone.name}-{size}' for size in backbone.sizes)}",
    )
