"""Which registers a run has, or what it has in their place: frozen data, without torch."""

from typing import Annotated, Literal

from pydantic import Field

from harness.frozen import BelowOne, Frozen, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class DenoiserRegisters(Frozen):
    """Diffusion registers: learned tokens in the denoiser (DSR, arXiv 2605.05206, section 1.4 of its code).

    `count` tokens enter before block `start_block` (0 is the first) and leave after the last block.  They hold learned
    vectors drawn with `init_std`, the embedding of the image's class, or zeros that nothing trains; to that a position
    is added.
    """

    count: PositiveInt
    start_block: NonNegativeInt
    content: Literal["learned", "class", "zero"] = "learned"
    position: Literal["sin-cos", "learned", "none"] = "sin-cos"
    init_std: NonNegativeFloat = 1.0


class RegisterGuidance(Frozen):
    """Steer by what the registers do: training steps drop them with `drop_probability`, sampling extrapolates.

    v = v_without + scale (v_with - v_without), which at a scale of 1 asks for no second forward pass.  Together with
    guidance by a class it is that guidance + scale (v_with - v_without), as published: there 0 changes nothing.
    """

    drop_probability: BelowOne = 0.1
    scale: NonNegativeFloat = 1.0


class AttentionVariant(Frozen):
    """A change of every attention layer that gives it somewhere else to look, or nothing to say."""

    kind: Literal["kv-bias", "sink-logit", "softmax-one", "gate-headwise", "gate-elementwise"]


class WiderMlp(Frozen):
    """MLPs `factor` times as wide: the operations of registers, without registers."""

    factor: Annotated[float, Field(ge=1)]


class LongerTraining(Frozen):
    """`factor` times as many training steps: the operations of registers, without registers."""

    factor: Annotated[float, Field(ge=1)]


class NormClamp(Frozen):
    """Outside training, scale every patch down to `above` medians of its image, after each block; others stay."""

    above: Annotated[float, Field(ge=1)] = 3.0


class LossMask(Frozen):
    """Leave patches out of the training loss whose norm is above a threshold, in units of their image's median.

    With `time_shift` S (DSR's --token_norm_shift; sqrt(48) for SigLIP2-B) the others are weighed as though each were
    trained at times shifted by S times its norm over the median; `logit_normal` corrects for times drawn so.
    """

    above: PositiveFloat
    unit: Literal["median", "absolute"] = "median"
    time_shift: PositiveFloat | None = None
    logit_normal: bool = False


class TrainedRegisters(Frozen):
    """The `count` registers that an `encoder` was trained with, as DINOv2 with registers and DINOv3 were.

    `weights` are empty for the published ones, or where the run's own encoder has the registers.
    """

    kind: Literal["trained"]
    encoder: str
    weights: str = ""
    count: PositiveInt


class AddedRegisters(Frozen):
    """Test-time registers (arXiv 2506.08010, batched as in DSR): zero tokens that take over what some neurons do.

    `count` tokens are appended after the patches.  In every layer of `neurons` (layer -> MLP neurons) the registers get
    `scale` times the largest activation: one signed value of all those neurons ("layer", both official codes), one
    signed value of each ("neuron", as the papers word it), or each one's plain maximum ("neuron-plain", the code of May
    2025).  On the patches those neurons are then set to zero, to their mean or (as in May 2025) to the mean of their
    lower three quarters, in outliers alone (above mean + one standard deviation) to the mean, or left the "same".

    The official slice 1:-count spares the first token as a class token.  In an encoder without one it spares a patch:
    "kept" does so, as the published numbers did; "treated" is what was meant.  `neuron_list` is where the neurons were
    read, `encoder_sha256` the weights in which they were found (empty where that is not known), `rounds` how often the
    search was repeated with the registers found before (the recursive form).
    """

    kind: Literal["test-time"]
    neuron_list: str
    encoder_sha256: str = ""
    rounds: PositiveInt = 1
    neurons: dict[NonNegativeInt, tuple[NonNegativeInt, ...]]
    count: PositiveInt = 1
    value: Literal["layer", "neuron", "neuron-plain"] = "layer"
    patches: Literal["zero", "mean", "trimmed-mean", "only-outliers", "same"] = "zero"
    first_patch: Literal["treated", "kept"] = "treated"
    scale: float = 1.0


EncoderRegisters = Annotated[TrainedRegisters | AddedRegisters, Field(discriminator="kind")]


class RegisterConfig(Frozen):
    """Which registers a run has, stage by stage, or what it has in their place.  `preset` is the name asked for.

    `absent_stages` are stages that the preset names and the backbone cannot have, such as the encoder stage
    where no transformer makes the latents.  `native_tokens` are extra tokens that the official network has anyway.
    """

    preset: str = "none"
    encoder: EncoderRegisters | None = None
    denoiser: DenoiserRegisters | None = None
    absent_stages: tuple[Literal["encoder", "denoiser"], ...] = ()
    guidance: RegisterGuidance | None = None
    attention: AttentionVariant | None = None
    wider_mlp: WiderMlp | None = None
    longer_training: LongerTraining | None = None
    loss_mask: LossMask | None = None
    clamp: NormClamp | None = None
    native_tokens: NonNegativeInt = 0

    def training_steps(self, planned: int) -> int:
        """How many steps are trained where the matched arm without registers trains the `planned` ones."""
        return planned if self.longer_training is None else round(planned * self.longer_training.factor)
