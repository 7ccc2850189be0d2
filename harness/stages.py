"""What registers a run really has, in words (no torch)."""

from collections.abc import Iterator

from harness.registers import RegisterConfig
from harness.spec import RunConfig


def stages(config: RunConfig) -> str:
    """What a run really has, in words: "none", "denoiser (no encoder stage here)", "test-time in encoder, denoiser"."""
    registers = config.registers
    present = ", ".join(_parts(registers)) or "none"
    if registers.native_tokens:
        present += f" + {registers.native_tokens} native tokens"
    missing = " or ".join(registers.absent_stages)
    return f"{present} (no {missing} stage here)" if missing else present


def _parts(registers: RegisterConfig) -> Iterator[str]:
    if registers.encoder:
        yield f"{registers.encoder.kind} in encoder"
    if registers.denoiser:
        yield "zero registers in denoiser" if registers.denoiser.content == "zero" else "denoiser"
    if registers.guidance:
        yield "register guidance"
    if registers.attention:
        yield registers.attention.kind
    if registers.wider_mlp:
        yield f"MLPs x {registers.wider_mlp.factor:.3f}"
    if registers.loss_mask:
        yield "loss mask"
    if registers.clamp:
        yield f"clamped at {registers.clamp.above:g} medians"
    if registers.longer_training:
        yield f"steps x {registers.longer_training.factor:.3f}"
