"""The published sizes of JiT, with and without its in-context tokens, and how JiT is trained and sampled (no torch)."""

from collections.abc import Mapping

from harness.backbone import Network, require_rotary_heads
from harness.errors import UserError
from harness.frozen import Fraction, NonNegativeInt, PositiveInt
from harness.spec import FlowObjective, Guidance, OdeSampler, Recipe


class JitNetwork(Network):
    """JiT's dimensions.  `in_context_len` class tokens join before block `in_context_start`; 0 is the "pDiT" arm."""

    bottleneck: PositiveInt
    in_context_len: NonNegativeInt = 32
    in_context_start: NonNegativeInt
    dropout: Fraction = 0.0

    @property
    def native_tokens(self) -> int:
        return self.in_context_len

    def check(self) -> None:
        super().check()
        require_rotary_heads(self.width // self.num_heads)
        if self.in_context_len and self.in_context_start >= self.depth:
            raise UserError(
                f"in-context tokens cannot enter before block {self.in_context_start} of {self.depth}",
                f"set network.in_context_start to at most {self.depth - 1}, or network.in_context_len=0",
            )


# width, depth, heads, bottleneck, first block with in-context tokens, dropout
_SCALES = {
    "b": (768, 12, 12, 128, 4, 0.0),
    "l": (1024, 24, 16, 128, 8, 0.0),
    "h": (1280, 32, 16, 256, 10, 0.2),
}
# patches of 16 are for 256 pixels, of 32 for 512: 256 tokens both
_INPUTS = {16: 256, 32: 512}
_SCALES_OF_GUIDANCE = {"b-16": 3.0, "b-32": 3.0, "l-16": 2.4, "l-32": 2.5, "h-16": 2.2, "h-32": 2.3}
_LARGE = 512

# For the embedded digits, and for the drawn shapes.
_TINY = {"input_size": 8, "in_channels": 1, "num_classes": 10, "patch_size": 2, "width": 64, "bottleneck": 16}
_MINI = {"input_size": 32, "in_channels": 3, "num_classes": 1, "patch_size": 4, "width": 128, "bottleneck": 48}

SAMPLER = OdeSampler(kind="ode", method="heun-euler", points=51)


def published_sizes(in_context_len: int) -> Mapping[str, JitNetwork]:
    """`b-16` to `h-32`, and `tiny` and `mini`, which have an eighth of the in-context tokens."""
    ours = {
        name: JitNetwork.model_validate(
            {**size, "depth": 4, "num_heads": 4, "in_context_len": in_context_len // 8, "in_context_start": 1}
        )
        for name, size in (("tiny", _TINY), ("mini", _MINI))
    }
    published = {
        f"{scale}-{patch}": JitNetwork(
            input_size=input_size,
            in_channels=3,
            num_classes=1000,
            patch_size=patch,
            width=width,
            depth=depth,
            num_heads=heads,
            bottleneck=bottleneck,
            in_context_len=in_context_len,
            in_context_start=start,
            dropout=dropout,
        )
        for scale, (width, depth, heads, bottleneck, start, dropout) in _SCALES.items()
        for patch, input_size in _INPUTS.items()
    }
    return ours | published


def headline(image_size: int) -> str:
    """The base model, with the patches that make 256 tokens."""
    return "b-32" if image_size >= _LARGE else "b-16"


def objective(network: Network) -> FlowObjective:
    """Data prediction under a velocity loss, logit-normal times; twice the noise at 512 pixels."""
    return FlowObjective(
        kind="flow",
        prediction="data",
        time_distribution="logit-normal",
        time_mean=-0.8,
        time_std=0.8,
        noise_scale=2.0 if network.input_size >= _LARGE else 1.0,
        clamped_target=True,
    )


def recipe(num_images: int) -> Recipe:
    """600 epochs at batch 1,024 after 5 of warm-up from zero, bf16, two EMAs."""
    steps_per_epoch = max(num_images // 1024, 1)
    return Recipe(
        steps=600 * steps_per_epoch,
        batch_size=1024,
        learning_rate=2e-4,
        warmup_steps=5 * steps_per_epoch,
        warmup="from-zero",
        betas=(0.9, 0.95),
        ema_decay=0.9999,
        second_ema_decay=0.9996,
        precision="bf16",
    )


def guidance(size: str) -> Guidance:
    """The official scale of a size, from t = 0.1 on; both ends of the interval are open."""
    return Guidance(scale=_SCALES_OF_GUIDANCE.get(size, 1.0), interval=(0.1, 1.0), channels="all", edges="open")
