"""What registers a run really has, in words (no torch)."""

from harness.spec import RunConfig


def stages(config: RunConfig) -> str:
    """What a run really has, in words: "none", "denoiser (no encoder stage here)", "test-time in encoder, denoiser"."""
    registers = config.registers
    longer = registers.longer_training
    in_encoder = registers.encoder
    kinds = {
        f"{in_encoder.kind} in encoder" if in_encoder else "encoder": in_encoder,
        "zero registers in denoiser" if _is_zero(config) else "denoiser": registers.denoiser,
        "register guidance": registers.guidance,
        registers.attention.kind if registers.attention else "attention": registers.attention,
        f"MLPs x {registers.wider_mlp.factor:.3f}" if registers.wider_mlp else "mlp": registers.wider_mlp,
        "loss mask": registers.loss_mask,
        f"clamped at {registers.clamp.above:g} medians" if registers.clamp else "clamp": registers.clamp,
        f"steps x {longer.factor:.3f}" if longer else "longer": longer,
    }
    present = ", ".join(words for words, part in kinds.items() if part is not None) or "none"
    if registers.native_tokens:
        present += f" + {registers.native_tokens} native tokens"
    missing = " or ".join(registers.absent_stages)
    return f"{present} (no {missing} stage here)" if missing else present


def _is_zero(config: RunConfig) -> bool:
    return config.registers.denoiser is not None and config.registers.denoiser.content == "zero"
