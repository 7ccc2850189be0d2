"""Register methods: from a preset's name to a configuration, and from that to a changed denoiser (torch only there)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsr import neurons
from dsr.presets import PRESETS as PRESETS
from dsr.presets import Preset
from harness.backbone import Backbone, Network
from harness.encoders import EncoderDefinition, find
from harness.errors import UserError, unknown_name
from harness.registers import AddedRegisters, EncoderRegisters, RegisterConfig, TrainedRegisters
from harness.spec import Latents

if TYPE_CHECKING:
    from torch import nn

    from harness.attention import MixesTokens
    from harness.denoiser import Denoiser
    from harness.encoder import Encoder

_WITHOUT_ENCODER = {
    "pixels": "works on pixels: there is no transformer",
    "sd-vae": "works on the latents of a convolutional VAE: there is no transformer",
    "stand-in": "works on patches under a fixed rotation: there is no transformer",
}


@dataclass(frozen=True)
class EncoderStage:
    """What an encoder stage has to work with: the latents, their encoder if there is one, and a list of neurons."""

    latents: Latents
    encoder: EncoderDefinition | None = None
    neurons: str | None = None


def configure(preset: str, backbone: Backbone, network: Network, stage: EncoderStage) -> RegisterConfig:
    """What a preset means on a backbone over latents.

    Raises UserError for an unknown name, where nothing would be left of it, and where an encoder has neither trained
    registers nor a list of register neurons.
    """
    if preset not in PRESETS:
        raise unknown_name("register preset", preset, PRESETS)
    wanted = PRESETS[preset]
    if wanted.needs_encoder and stage.encoder is None:
        there_is_none = f"{backbone.title} {_WITHOUT_ENCODER[stage.latents.kind]}"
        raise UserError(
            f"{preset} masks by the norm of an encoder's tokens, and {there_is_none}",
            "use --registers loss-mask, whose threshold is a multiple of the median, or a backbone of RAE",
        )
    is_absent = "encoder" in wanted.stages and stage.encoder is None
    if is_absent and wanted.stages == ("encoder",):
        raise UserError(
            f"{backbone.title} {_WITHOUT_ENCODER[stage.latents.kind]} that encoder registers could be put into",
            "use --registers denoiser, or dsr, which is then the denoiser stage alone",
        )
    if stage.neurons is not None and ("encoder" not in wanted.stages or stage.encoder is None):
        raise UserError(f"--neurons has no effect on {preset} here", "use it with --registers encoder or dsr on RAE")
    in_encoder = _in_encoder(wanted, stage) if "encoder" in wanted.stages else None
    if wanted.stages == ("encoder",) and isinstance(in_encoder, TrainedRegisters) and _has_its_own(stage):
        raise UserError(
            f"the {in_encoder.count} registers of {in_encoder.encoder} are in every arm: {preset} would change nothing",
            "compare with an encoder that was trained without them (dinov2-b and its like)",
        )
    return RegisterConfig(
        preset=preset,
        encoder=in_encoder,
        absent_stages=("encoder",) if is_absent else (),
        native_tokens=network.native_tokens,
        **wanted.fields(network),
    )


def _has_its_own(stage: EncoderStage) -> bool:
    return stage.encoder is not None and stage.encoder.registers > 0


def _in_encoder(preset: Preset, stage: EncoderStage) -> EncoderRegisters | None:
    """Trained registers where they exist, else test-time registers by the neurons that are known."""
    if stage.encoder is None:
        return None
    if stage.neurons is not None:
        listed = neurons.find_for(stage.neurons, stage.encoder)
        if listed.rounds < preset.rounds:
            raise UserError(
                f"{listed.name} was found in {listed.rounds} round, and this preset is the recursive one",
                "use --registers encoder, or find neurons with --recursive 2",
            )
        return listed.registers()
    trained = _trained(stage.encoder)
    if trained.registers and preset.rounds == 1:
        return TrainedRegisters(kind="trained", encoder=trained.name, count=trained.registers)
    shipped = neurons.shipped_for(stage.encoder.name, preset.rounds)
    if shipped is not None:
        return shipped.registers()
    again, known = (" --recursive 2", " from a recursive search") if preset.rounds > 1 else ("", "")
    raise UserError(
        f"no register neurons of {stage.encoder.name} are known{known}",
        f"find them first: python -m harness neurons find --encoder {stage.encoder.name} --data DIR{again} "
        "--out neurons.json; then add --neurons neurons.json",
    )


def _trained(encoder: EncoderDefinition) -> EncoderDefinition:
    """The same encoder as it was trained with registers, where there is one; else the encoder itself."""
    return find(encoder.registered) if encoder.registered else encoder


def check(registers: RegisterConfig, network: Network, encoder: EncoderDefinition | None) -> None:
    """Raise UserError where registers could not enter the network or the encoder, or would never leave them."""
    denoiser = registers.denoiser
    if denoiser is not None and denoiser.start_block >= network.depth:
        raise UserError(
            f"registers cannot enter before block {denoiser.start_block}: "
            f"the network has {network.depth} blocks, 0 to {network.depth - 1}",
            f"set registers.denoiser.start_block to at most {network.depth - 1}",
        )
    if isinstance(registers.encoder, TrainedRegisters) and encoder is not None:
        trained = _trained(encoder)
        if (registers.encoder.encoder, registers.encoder.count) != (trained.name, trained.registers):
            raise UserError(
                f"{trained.name} was trained with {trained.registers} registers: that cannot be set",
                "leave registers.encoder.encoder and registers.encoder.count alone",
            )
    if isinstance(registers.encoder, AddedRegisters):
        assert encoder is not None, "test-time registers without an encoder"
        neurons.check(registers.encoder, encoder)


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
    if registers.clamp is not None:
        from dsr.clamp import norm_clamp

        denoiser.clamp = norm_clamp(registers.clamp, denoiser.patch_tokens)


def attach_to_encoder(registers: EncoderRegisters | None, encoder: "Encoder") -> None:
    """Give an encoder what a configuration says, in place of what it was given before.

    Trained registers it has already; None leaves it as it was born.
    """
    from dsr import encoder as test_time

    if isinstance(registers, AddedRegisters):
        test_time.attach(registers, encoder)
    else:
        test_time.detach(encoder)


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
