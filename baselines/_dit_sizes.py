"""The published sizes of DiT and SiT, whose networks are the same module tree (no torch)."""

from collections.abc import Mapping
from typing import TypeVar

from harness.backbone import Network
from harness.spec import Recipe, VaeLatents


class DitNetwork(Network):
    """DiT's dimensions.  `learn_sigma` doubles the output channels; `null_class` adds the row for "no class"."""

    learn_sigma: bool = True
    null_class: bool = True

    @property
    def predicted_channels(self) -> int:
        return 2 * self.in_channels if self.learn_sigma else self.in_channels

    @property
    def has_null_class(self) -> bool:
        return self.null_class


AnyDit = TypeVar("AnyDit", bound=DitNetwork)


class SitNetwork(DitNetwork):
    """SiT's dimensions: with `learn_sigma` the network computes twice the channels and returns the first half."""

    @property
    def predicted_channels(self) -> int:
        return self.in_channels


# ImageNet at 256 pixels through SD-VAE: 4 channels of 32 x 32, 1,000 classes.
_SCALES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}
_PATCHES = (2, 4, 8)

# For the embedded digits: 8 x 8 grey pixels, small enough to learn on a laptop in a minute.
_TINY = Network(input_size=8, in_channels=1, num_classes=10, patch_size=2, width=64, depth=4, num_heads=4)

# For the drawn shapes: 8 x 8 latents of 32 x 32 pixels, to be learnt on two cores in minutes.
_MINI = Network(input_size=8, in_channels=8, num_classes=1, patch_size=1, width=128, depth=4, num_heads=4)

# ImageNet in SD-VAE's latents; FID is reported on samples decoded by the same "ema" decoder.
LATENTS = VaeLatents(kind="sd-vae")


def official_recipe(num_images: int) -> Recipe:
    """1,400 epochs at batch 256, TF32, no clipping, no warm-up."""
    return Recipe(steps=1400 * max(num_images // 256, 1), precision="tf32")


def published_sizes(network: type[AnyDit]) -> Mapping[str, AnyDit]:
    """Every size of the papers, `s-2` to `xl-8`, and `tiny` and `mini`."""
    published = {
        f"{scale}-{patch}": network(
            input_size=32,
            in_channels=4,
            num_classes=1000,
            patch_size=patch,
            width=width,
            depth=depth,
            num_heads=heads,
        )
        for scale, (width, depth, heads) in _SCALES.items()
        for patch in _PATCHES
    }
    ours = {"tiny": _TINY, "mini": _MINI}
    return {name: network.model_validate(size.model_dump()) for name, size in ours.items()} | published
