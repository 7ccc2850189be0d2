"""The published sizes of the transformers over representation latents, and how they are trained and sampled (no torch).

Official code: bytetriper/RAE at a4d18c4 (LightningDiT, DiTwDDTHead) and a-little-hoof/DSR at d9ceec1.
"""

import math
from collections.abc import Mapping

from harness.backbone import Network, Shape, require_rotary_heads
from harness.errors import UserError
from harness.frozen import PositiveInt
from harness.spec import FlowObjective, Guidance, OdeSampler, RaeLatents, Recipe


class LightningNetwork(Network):
    """LightningDiT's dimensions and options.

    `rms_norm` False is layer norm, `swiglu` False a GELU MLP, `shift` False leaves the blocks' shifts out ("wo_shift");
    `query_key_norm`, `rotary` and `learn_sigma` are what they say; `null_class` adds the row for "no class".
    """

    rms_norm: bool = True
    swiglu: bool = True
    rotary: bool = True
    query_key_norm: bool = False
    shift: bool = True
    learn_sigma: bool = False
    null_class: bool = True

    @property
    def has_null_class(self) -> bool:
        return self.null_class

    def check(self) -> None:
        super().check()
        if self.rotary:
            require_rotary_heads(self.width // self.num_heads)


class DhNetwork(LightningNetwork):
    """DiT-DH's dimensions: `width`, `depth` and `num_heads` are the first trunk's; a wide, shallow head follows."""

    head_width: PositiveInt = 2048
    head_depth: PositiveInt = 2
    head_num_heads: PositiveInt = 16

    @property
    def trunk_shapes(self) -> tuple[Shape, ...]:
        return (Shape(self.depth, self.width), Shape(self.head_depth, self.head_width, modulated_by_token=True))

    def check(self) -> None:
        super().check()
        if self.patch_size != 1:
            raise UserError("DiT-DH works on patches of 1", "set network.patch_size=1")
        if not self.rotary or not self.shift or self.learn_sigma:
            raise UserError(
                "DiT-DH has rotary positions, shifts, and no learned variance",
                "leave network.rotary, network.shift and network.learn_sigma alone, or use --backbone rae-dit",
            )
        if self.head_width % self.head_num_heads or self.head_width % 4:
            raise UserError(
                f"a head of width {self.head_width} does not divide into {self.head_num_heads} heads, or by 4",
                "set network.head_width to a multiple of both",
            )
        require_rotary_heads(self.head_width // self.head_num_heads)


# An input of this many values needs no time shift (SD3, arXiv 2403.03206; RAE).
UNSHIFTED_DIMENSION = 4096

LATENTS = RaeLatents(kind="rae")
SAMPLER = OdeSampler(kind="ode", method="euler", points=50)

_INPUT = {"input_size": 16, "in_channels": LATENTS.channels, "num_classes": 1000, "patch_size": 1}
_SCALES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}
_TINY = {"input_size": 4, "in_channels": 4, "num_classes": 10, "patch_size": 1, "width": 64, "depth": 4, "num_heads": 4}
_MINI = _TINY | {"input_size": 8, "in_channels": 48, "num_classes": 1, "width": 128}


def lightning_sizes() -> Mapping[str, LightningNetwork]:
    """`s` to `xl`, over 16 x 16 latents 768 wide (SigLIP2-B, DINOv2-B), and `tiny` and `mini`."""
    published = {
        name: LightningNetwork.model_validate(_INPUT | {"width": width, "depth": depth, "num_heads": heads})
        for name, (width, depth, heads) in _SCALES.items()
    }
    ours = {"tiny": _TINY, "mini": _MINI}
    return {name: LightningNetwork.model_validate(size) for name, size in ours.items()} | published


def dh_sizes() -> Mapping[str, DhNetwork]:
    """`s` and `xl`, over 16 x 16 latents 768 wide (SigLIP2-B, DINOv2-B), and `tiny` and `mini`."""
    head = {"depth": 3, "head_depth": 1, "head_num_heads": 4}
    ours = {
        "tiny": DhNetwork.model_validate(_TINY | head | {"head_width": 96}),
        "mini": DhNetwork.model_validate(_MINI | head | {"head_width": 192}),
    }
    published = {
        name: DhNetwork.model_validate(_INPUT | {"width": width, "depth": depth, "num_heads": heads})
        for name, (width, depth, heads) in _SCALES.items()
        if name in ("s", "xl")
    }
    return ours | published


def objective(network: Network) -> FlowObjective:
    """Data prediction at logit-normal times, moved towards noise by the size of the latents.

    The official shift stays that of latents 768 wide when only their width differs (So400M, 1152 wide).  Latents too
    small for the formula, which would move towards data, are left alone.
    """
    published = network.input_size in (16, 32) and network.in_channels >= LATENTS.channels
    dimension = network.input_size**2 * (LATENTS.channels if published else network.in_channels)
    return FlowObjective(
        kind="flow",
        prediction="data",
        time_distribution="logit-normal",
        time_shift=max(math.sqrt(dimension / UNSHIFTED_DIMENSION), 1.0),
        toward_noise=True,
    )


def lightning_recipe(num_images: int) -> Recipe:
    """DSR's DiT-XL: 800 epochs at a constant rate, no clipping."""
    return _recipe(num_images, decays=False)


def dh_recipe(num_images: int) -> Recipe:
    """DSR's DiT-DH: the rate falls to a tenth between epochs 40 and 800; clipping at 1."""
    return _recipe(num_images, decays=True)


def guidance(size: str) -> Guidance:  # noqa: ARG001
    """None by default; where it is used, all channels are guided."""
    return Guidance(channels="all")


def _recipe(num_images: int, *, decays: bool) -> Recipe:
    steps_per_epoch = max(num_images // 1024, 1)
    constant = Recipe(
        steps=800 * steps_per_epoch,
        batch_size=1024,
        learning_rate=2e-4,
        betas=(0.9, 0.95),
        ema_decay=0.9999,
        precision="tf32",
        trains_fixed_tables=True,
    )
    if not decays:
        return constant
    return constant.model_copy(
        update={
            "warmup": "flat",
            "warmup_steps": 40 * steps_per_epoch,
            "decay": "linear",
            "decay_end": 800 * steps_per_epoch,
            "final_learning_rate": 2e-5,
            "gradient_clip": 1.0,
            "ema_decay": 0.9995,
        }
    )
