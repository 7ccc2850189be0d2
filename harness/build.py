"""Put a network and its registers together, as one RunConfig says."""

from dataclasses import replace

import torch

import dsr
from dsr.official import OfficialLayout, layout
from harness import registry
from harness.denoiser import Denoiser
from harness.errors import UserError
from harness.metrics import cost
from harness.prompt_readers import reader_of
from harness.prompted import attach_prompts
from harness.registers import RegisterConfig
from harness.released import Released, locate, mapping, read_released, require_same_network
from harness.spec import RunConfig, Weights
from harness.weights import Row, fitted


def build(config: RunConfig) -> Denoiser:
    """A fresh denoiser on the CPU.

    The network is made before its registers, from the run's seed, so that arms which differ in registers alone start
    from the same weights.  Raises UserError where a third party's file is another by now, and where a backbone builds
    something else.
    """
    backbone = registry.backbone_of(config)
    torch.manual_seed(config.seed)
    denoiser = backbone.build(dsr.network_of(config.registers, config.network))
    if not isinstance(denoiser, Denoiser):
        raise UserError(
            f"build of {backbone.name} returns {type(denoiser).__name__}, which is no harness.denoiser.Denoiser",
            "derive its network from Denoiser, and return one",
        )
    if config.text is not None:
        attach_prompts(config.text, denoiser, reader_of(config))
    dsr.attach(config.registers, denoiser)
    return denoiser


def identify(config: RunConfig, place: str) -> Weights:
    """Which released model is at a path or hub id; raises UserError unless it fits the network key by key."""
    released = read_released(locate(place))
    put_into(config, build(config), released)
    return Weights(name=released.name, sha256=released.sha256, entry=released.entry)


def load_released(config: RunConfig, denoiser: Denoiser, place: str, sha256: str) -> None:
    """Put the released model at a place into a denoiser of this configuration.

    Raises UserError where the file is no longer the one with this digest.
    """
    released = read_released(locate(place))
    if released.sha256 != sha256:
        raise UserError(f"{place} changed while the run was being prepared", "run the command again when it is still")
    put_into(config, denoiser, released)


def put_into(config: RunConfig, denoiser: Denoiser, released: Released) -> None:
    """Give a denoiser of this configuration a released model's weights, by whatever official names.

    Raises UserError unless they fit, key by key and in the dimensions that the release states.
    """
    require_same_network(released, config.network)
    official = layout(config.registers, denoiser)
    denoiser.load_state_dict(fitted(denoiser, released.state, official.names, official.derived), strict=True)


def build_guide(config: RunConfig) -> Denoiser | None:
    """The guide of autoguidance with its weights, or None where the run has none."""
    guide, place, plain = config.protocol.guidance.guide, config.execution.guide, guide_config(config)
    if guide is None or plain is None:
        return None
    assert place is not None, "a guide without a place"
    denoiser = build(plain)
    load_released(plain, denoiser, place, guide.weights_sha256)
    return denoiser.requires_grad_(requires_grad=False)


def guide_config(config: RunConfig) -> RunConfig | None:
    """The configuration that builds a run's guide, which has no registers, nor anything in their place."""
    guide = config.protocol.guidance.guide
    if guide is None:
        return None
    return config.model_copy(update={"network": guide.network, "registers": RegisterConfig()})


def map_weights(config: RunConfig, denoiser: Denoiser, released: Released) -> list[Row]:
    """What becomes of each key of a released model in this network, whether it fits or not."""
    official = layout(config.registers, denoiser)
    return mapping(released, denoiser.state_dict(), official.names, official.derived)


def layout_of(config: RunConfig) -> OfficialLayout:
    """How the official code would write this network, without making a weight."""
    with torch.device("meta"):
        return layout(config.registers, build(config))


def size_of(config: RunConfig) -> cost.Size:
    """Parameters and operations, those of all that guidance asks included, without making a weight."""
    size, guide = _counted(config), guide_config(config)
    if guide is not None:
        size = replace(size, flops_against=_counted(guide).flops)
    if config.registers.guidance is not None:
        size = replace(size, flops_without_registers=_counted(_without_tokens(config)).flops)
    return size


def _without_tokens(config: RunConfig) -> RunConfig:
    registers = config.registers.model_copy(update={"denoiser": None})
    return config.model_copy(update={"registers": registers})


def _counted(config: RunConfig) -> cost.Size:
    with torch.device("meta"):
        denoiser = build(config)
    return cost.count(denoiser, config.network["in_channels"], config.network["input_size"])
