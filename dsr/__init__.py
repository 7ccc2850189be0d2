"""Dual-Stage Registers (DSR, arXiv 2605.05206): the presets, by name (no torch until registers are attached)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.backbone import Backbone, Network
from harness.errors import UserError, unknown_name
from harness.spec import DenoiserRegisters, RegisterConfig

if TYPE_CHECKING:
    from harness.denoiser import Denoiser

# The paper's setting: 36 registers from block 8 of 28, beside 256 patches.
PAPER_COUNT, PAPER_START, PAPER_DEPTH, PAPER_PATCHES = 36, 8, 28, 256
SHALLOWEST_PUBLISHED = 12
FEWEST = 4

Stage = Literal["encoder", "denoiser"]


@dataclass(frozen=True)
class Preset:
    """A named register configuration: the stages that it wants, and one line for `list registers`."""

    stages: tuple[Stage, ...]
    title: str


PRESETS: Mapping[str, Preset] = {
    "none": Preset((), "no registers: the arm that every other one is compared with"),
    "encoder": Preset(("encoder",), "registers in the encoder alone: trained ones where they exist, else test-time"),
    "denoiser": Preset(("denoiser",), "diffusion registers alone: learned tokens in the later blocks of the denoiser"),
    "dsr": Preset(("encoder", "denoiser"), "Dual-Stage Registers: both stages, wherever the backbone has them"),
}


def configure(preset: str, backbone: Backbone, network: Network) -> RegisterConfig:
    """What a preset means on a backbone.

    Raises UserError for an unknown name, or where nothing would be left of it.
    """
    if preset not in PRESETS:
        raise unknown_name("register preset", preset, PRESETS)
    stages = PRESETS[preset].stages
    absent: tuple[Stage, ...] = ("encoder",) if "encoder" in stages and backbone.encoder is None else ()
    if absent and absent == stages:
        raise UserError(
            f"{backbone.title}'s latents come from {backbone.latents}: "
            "there is no transformer that encoder registers could be put into",
            "use --registers denoiser, or dsr, which is then the denoiser stage alone",
        )
    return RegisterConfig(
        preset=preset,
        denoiser=_paper_setting(network) if "denoiser" in stages else None,
        absent_stages=absent,
    )


def check(registers: RegisterConfig, network: Network) -> None:
    """Raise UserError where registers could not enter the network or would never leave it."""
    denoiser = registers.denoiser
    if denoiser is not None and denoiser.start_block >= network.depth:
        raise UserError(
            f"registers cannot enter before block {denoiser.start_block}: "
            f"the network has {network.depth} blocks, 0 to {network.depth - 1}",
            f"set registers.denoiser.start_block to at most {network.depth - 1}",
        )


def attach(registers: RegisterConfig, denoiser: "Denoiser") -> None:
    """Give the denoiser the registers of a configuration.  Its own weights are left as they are."""
    if registers.denoiser is not None:
        from dsr.denoiser import DiffusionRegisters

        denoiser.registers = DiffusionRegisters(registers.denoiser, denoiser)


def official_names(registers: RegisterConfig) -> Mapping[str, str]:
    """Where the official DSR checkpoints keep the registers: official key to ours."""
    if registers.denoiser is None:
        return {}
    ours = f"registers.sets.{registers.denoiser.start_block}"
    return {"register_tokens": f"{ours}.tokens", "register_pos_embed": f"{ours}.position"}


def _paper_setting(network: Network) -> DenoiserRegisters:
    """36 at block 8 of 28, or at the first third of another depth (4 of 12, as the paper's GFLOPs of S and B show).

    A network shallower than any published one gets the paper's share of tokens, 36 to 256, as a square number.
    """
    start = PAPER_START if network.depth == PAPER_DEPTH else network.depth // 3
    if network.depth >= SHALLOWEST_PUBLISHED:
        return DenoiserRegisters(count=PAPER_COUNT, start_block=start)
    share = math.isqrt(network.patch_tokens * PAPER_COUNT // PAPER_PATCHES) ** 2
    return DenoiserRegisters(count=min(max(share, FEWEST), PAPER_COUNT), start_block=start)
