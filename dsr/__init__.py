"""Register methods: from a preset's name to a configuration, and from that to a changed denoiser (torch only there)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsr.presets import PRESETS as PRESETS
from dsr.presets import Stage
from harness.backbone import Backbone, Network
from harness.errors import UserError, unknown_name
from harness.registers import RegisterConfig
from harness.spec import Latents

if TYPE_CHECKING:
    from torch import nn

    from harness.attention import MixesTokens
    from harness.denoiser import Denoiser

_WITHOUT_ENCODER = {
    "pixels": "works on pixels: there is no transformer",
    "sd-vae": "works on the latents of a convolutional VAE: there is no transformer",
    "stand-in": "works on patches under a fixed rotation: there is no transformer",
    "rae": "works on an encoder's latents, which this version cannot make: there is no transformer yet",
}


def configure(preset: str, backbone: Backbone, network: Network, latents: Latents) -> RegisterConfig:
    """What a preset means on a backbone over latents.

    Raises UserError for an unknown name, or where nothing would be left of it.
    """
    if preset not in PRESETS:
        raise unknown_name("register preset", preset, PRESETS)
    stages = PRESETS[preset].stages
    absent: tuple[Stage, ...] = ("encoder",) if "encoder" in stages else ()
    if absent and absent == stages:
        raise UserError(
            f"{backbone.title} {_WITHOUT_ENCODER[latents.kind]} that encoder registers could be put into",
            "use --registers denoiser, or dsr, which is then the denoiser stage alone",
        )
    fields = PRESETS[preset].fields(network)
    return RegisterConfig(preset=preset, absent_stages=absent, native_tokens=network.native_tokens, **fields)


def check(registers: RegisterConfig, network: Network) -> None:
    """Raise UserError where registers could not enter the network or would never leave it."""
    denoiser = registers.denoiser
    if denoiser is not None and denoiser.start_block >= network.depth:
        raise UserError(
            f"registers cannot enter before block {denoiser.start_block}: "
            f"the network has {network.depth} blocks, 0 to {network.depth - 1}",
            f"set registers.denoiser.start_block to at most {network.depth - 1}",
        )


def network_of(registers: RegisterConfig, network: Mapping[str, Any]) -> Mapping[str, Any]:
    """The dimensions that a run builds: those of its backbone, changed where a control changes them."""
    if registers.wider_mlp is None:
        return network
    return {**network, "mlp_ratio": network["mlp_ratio"] * registers.wider_mlp.factor}


def attach(registers: RegisterConfig, denoiser: "Denoiser") -> None:
    """Give the denoiser what a configuration says.  Its own weights are left as they are."""
    if registers.denoiser is not None:
        from dsr.denoiser import DiffusionRegisters

        denoiser.registers = DiffusionRegisters(registers.denoiser, denoiser)
    if registers.attention is not None:
        from harness.attention import MixesTokens

        layers = [module for module in denoiser.modules() if isinstance(module, MixesTokens)]
        for layer in layers:
            layer.mixing = _mixing(registers.attention.kind, layer)
    if registers.loss_mask is not None:
        from dsr.loss_mask import element_weights

        denoiser.loss_weight = element_weights(registers.loss_mask, denoiser.patch_tokens)


def _mixing(kind: str, attention: "MixesTokens") -> Any:
    from dsr.gated_attention import GatedMixing
    from dsr.kv_bias import KvBias
    from dsr.sink_logit import SinkLogit, SoftmaxOne

    makers: Mapping[str, type[nn.Module] | Any] = {
        "kv-bias": KvBias,
        "sink-logit": SinkLogit,
        "softmax-one": lambda _: SoftmaxOne(),
        "gate-headwise": lambda layer: GatedMixing(layer, elementwise=False),
        "gate-elementwise": lambda layer: GatedMixing(layer, elementwise=True),
    }
    return makers[kind](attention)
