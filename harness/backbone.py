"""What a family of backbones says of itself, without torch: the facts that `list`, `resolve` and the records need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.errors import UserError
from harness.frozen import Frozen, PositiveInt
from harness.spec import Guidance, Latents, Objective, Recipe, Sampler, Uint8Rule

if TYPE_CHECKING:
    from harness.denoiser import Denoiser


@dataclass(frozen=True)
class Shape:
    """A run of blocks of one width; `modulated_by_token` where each token has a condition of its own."""

    depth: int
    width: int
    modulated_by_token: bool = False


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

    @property
    def native_tokens(self) -> int:
        """How many extra tokens the official network has of its own accord."""
        return 0

    @property
    def trunk_shapes(self) -> tuple[Shape, ...]:
        """The runs of blocks, each of one width, in their order."""
        return (Shape(self.depth, self.width),)

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

    def on(self, channels: int, side: int, num_classes: int) -> "Network":
        """The same network with another input and other classes."""
        return self.model_copy(update={"input_size": side, "in_channels": channels, "num_classes": num_classes})


@dataclass(frozen=True)
class Backbone:
    """One family: its sizes, its official training and sampling, and how to build it.

    `sizes` maps a size's name (`xl-2`) to the official network, and `build` makes the torch module of one of them.
    `objective` depends on the network's input, `recipe` on the number of training images, `guidance` on the size's
    name; `headline` is the size that the family is known for at an image size.  `latents` are what it was published on.
    """

    name: str
    title: str
    source: str
    sizes: Mapping[str, Network]
    objective: Callable[[Network], Objective]
    headline: Callable[[int], str]
    recipe: Callable[[int], Recipe]
    sampler: Sampler
    guidance: Callable[[str], Guidance]
    uint8_rule: Uint8Rule
    build: Callable[[Mapping[str, Any]], "Denoiser"]
    latents: Latents

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


def require_rotary_heads(head_width: int) -> None:
    """Raise UserError where a head cannot be turned in two dimensions."""
    if head_width % 4:
        raise UserError(
            f"2-D rotary positions need heads whose width is divisible by 4, not {head_width}",
            "set network.width and network.num_heads so that their quotient is a multiple of 4",
        )
