"""What a run is, before it runs: frozen data, without torch."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.frozen import (
    BelowOne,
    Epsilon,
    Fraction,
    Frozen,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
)
from harness.identity import NO_PART_OF_ID, Identity, identity_of
from harness.registers import RegisterConfig
from harness.text_config import TextConfig

Uint8Rule = Literal["round", "truncate-128", "truncate-255"]


class Task(Frozen):
    """Images to learn and to make: `channels` x `image_size` x `image_size`, in `num_classes` classes.

    With `prompts` images have captions and one class, and are made for a set: GenEval's 553, the shapes' held-out ones.
    """

    name: str
    channels: PositiveInt
    image_size: PositiveInt
    num_classes: PositiveInt
    horizontal_flip: bool = False
    class_names: tuple[str, ...] = ()
    data_fingerprint: str = ""
    num_training_images: PositiveInt | None = None
    metric: Literal["fd_digits", "geneval_shapes", "none"] = "none"
    prompts: Literal["", "shapes", "geneval"] = ""


class PixelLatents(Frozen):
    """No latents: the denoiser sees the image itself, in [-1, 1]."""

    kind: Literal["pixels"] = "pixels"

    def shape(self, task: Task) -> tuple[int, int]:
        """(channels, side) of what the denoiser sees."""
        return task.channels, task.image_size


class VaeLatents(Frozen):
    """Stable Diffusion's VAE: posterior samples times `scale` in training, as DiT and SiT.

    `weights` is a hub id, or what a folder in diffusers' format is called here, with the start of its SHA-256.
    """

    kind: Literal["sd-vae"]
    weights: str = "stabilityai/sd-vae-ft-ema"
    scale: PositiveFloat = 0.18215
    channels: PositiveInt = 4
    downsampling: PositiveInt = 8

    def shape(self, task: Task) -> tuple[int, int]:
        """(channels, side) of what the denoiser sees."""
        return self.channels, task.image_size // self.downsampling


class StandInLatents(Frozen):
    """A stand-in for a representation encoder: patches of `patch` squared, turned by one fixed rotation.

    As many channels as a patch has values (768 for 16 x 16 RGB, as SigLIP2-B), exactly invertible, and no
    representation: what is measured on it says nothing of representation latents.
    """

    kind: Literal["stand-in"]
    patch: PositiveInt = 2

    def shape(self, task: Task) -> tuple[int, int]:
        """(channels, side) of what the denoiser sees."""
        return task.channels * self.patch**2, task.image_size // self.patch


class DrawnLatents(Frozen):
    """Latents of the small autoencoder that comes with the drawn shapes, whitened: what SD-VAE is to photographs."""

    kind: Literal["shapes"]
    weights_sha256: str
    channels: Literal[8] = 8
    patch: Literal[4] = 4

    def shape(self, task: Task) -> tuple[int, int]:
        """(channels, side) of what the denoiser sees."""
        return self.channels, task.image_size // self.patch


class RaeLatents(Frozen):
    """Tokens of a frozen representation encoder, `channels` wide, one for each patch of `patch` squared (RAE).

    They are those after the final norm, or with `before_norm` the last block's (RAE's `preln`), whitened; a `decoder`
    of that size makes images of them.  `weights`, `decoder_weights` and `statistics` are empty where the published
    encoder, a decoder trained here, and statistics computed here are used; else a file's name and the start of its
    SHA-256.
    """

    kind: Literal["rae"]
    encoder: str = "siglip2-b"
    weights: str = ""
    channels: PositiveInt = 768
    patch: PositiveInt = 16
    before_norm: bool = False
    decoder: str = "vit-xl"
    decoder_weights: str = ""
    statistics: str = ""

    def shape(self, task: Task) -> tuple[int, int]:
        """(channels, side) of what the denoiser sees."""
        return self.channels, task.image_size // self.patch


Latents = Annotated[PixelLatents | VaeLatents | StandInLatents | DrawnLatents | RaeLatents, Field(discriminator="kind")]


class FlowObjective(Frozen):
    """Interpolants x_t = alpha(t) data + sigma(t) noise_scale noise, t = 0 noise (SiT, arXiv 2401.08740).

    The epsilons keep training and sampling away from the ends where formulas diverge (None: the official values); a
    velocity on the linear or the GVP path needs none and ignores them.  "logit-normal" times are sigmoid(time_mean +
    time_std n), n normal.  A `time_shift` a moves all times towards noise: 1 - t becomes a (1 - t) / (1 + (a - 1)
    (1 - t)) (SD3, RAE).  A data prediction x gives the velocity (x - x_t) / max(1 - t, least_divisor), in sampling
    clipped to +- `clip_prediction`; its loss compares that with the true velocity, or with `clamped_target` with the
    data's under the same divisor (JiT).  `toward_noise` says that the network counts time from data to noise and its
    velocity that way, as RAE and DSR do.
    """

    kind: Literal["flow"]
    path: Literal["linear", "gvp", "vp"] = "linear"
    prediction: Literal["velocity", "noise", "score", "data"] = "velocity"
    loss_weight: Literal["none", "velocity", "likelihood"] = "none"
    training_epsilon: Epsilon | None = None
    sampling_epsilon: Epsilon | None = None
    time_distribution: Literal["uniform", "logit-normal"] = "uniform"
    time_mean: float = 0.0
    time_std: PositiveFloat = 1.0
    time_shift: PositiveFloat = 1.0
    noise_scale: PositiveFloat = 1.0
    least_divisor: PositiveFloat = 0.05
    clip_prediction: PositiveFloat | None = None
    clamped_target: bool = False
    toward_noise: bool = False

    @property
    def is_direct(self) -> bool:
        """The only cases in which no formula divides by something that is zero at an end of time."""
        return self.prediction in ("velocity", "data") and self.path != "vp"


class DdpmObjective(Frozen):
    """DiT's diffusion: 1,000 noise steps, noise prediction, learned variance (arXiv 2102.09672).

    `loss` is the noise's square error plus the variational term; "rescaled_mse" weighs that term by steps / 1000, and
    "kl" is the variational bound alone.
    """

    kind: Literal["ddpm"]
    schedule: Literal["linear", "squaredcos_cap_v2"] = "linear"
    variance: Literal["learned_range", "fixed_large", "fixed_small"] = "learned_range"
    loss: Literal["mse", "rescaled_mse", "kl"] = "mse"


Objective = Annotated[FlowObjective | DdpmObjective, Field(discriminator="kind")]


class OdeSampler(Frozen):
    """Integrate the probability flow over `points` grid points: fixed-step methods take `points` - 1 steps.

    "heun-euler" is JiT's: Heun's steps, but the last one Euler's.
    """

    kind: Literal["ode"]
    method: Literal["euler", "heun", "heun-euler", "midpoint", "rk4", "dopri5"] = "dopri5"
    points: Annotated[int, Field(ge=2, lt=2**31)] = 50
    absolute_tolerance: PositiveFloat = 1e-6
    relative_tolerance: PositiveFloat = 1e-3


class SdeSampler(Frozen):
    """Integrate the reverse SDE over `points` grid points, then take one last step of `last_step_size`."""

    kind: Literal["sde"]
    method: Literal["euler", "heun"] = "euler"
    points: Annotated[int, Field(ge=2, lt=2**31)] = 250
    diffusion: Literal["sigma", "linear", "decreasing", "increasing-decreasing", "sbdm", "constant"] = "sigma"
    diffusion_norm: PositiveFloat = 1.0
    last_step: Literal["none", "mean", "euler", "tweedie"] = "mean"
    last_step_size: Annotated[float, Field(ge=0, lt=1)] = 0.04


class DdpmSampler(Frozen):
    """Ancestral sampling over the steps that `respacing` keeps: "250", "100,50,20" or "ddim50"."""

    kind: Literal["ddpm"]
    respacing: str = "250"
    clip_denoised: bool = False


class DdimSampler(Frozen):
    """DDIM (arXiv 2010.02502) over the steps that `respacing` keeps; `eta` 0 is deterministic."""

    kind: Literal["ddim"]
    respacing: str = "ddim50"
    eta: Fraction = 0.0
    clip_denoised: bool = False


Sampler = Annotated[OdeSampler | SdeSampler | DdpmSampler | DdimSampler, Field(discriminator="kind")]


class Recipe(Frozen):
    """How the denoiser is trained.

    During the first `warmup_steps` W the rate is (step + 1) / W of the full one, step / W "from-zero" (JiT), or the
    full one, "flat" (RAE); after them it stays, or falls to `final_learning_rate` at step `decay_end`, None the last.
    `precision` is the autocast type; "tf32" is float32 with an accelerator's TF32 matrix products, "auto" is bf16 on an
    accelerator that has it, float32 elsewhere.  A second EMA is kept beside the one that is measured.
    `trains_fixed_tables` also trains what is fixed by construction, position tables and Fourier features, as the RAE
    and DSR trainers do.
    """

    steps: PositiveInt
    batch_size: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-4
    warmup_steps: NonNegativeInt = 0
    warmup: Literal["linear", "from-zero", "flat"] = "linear"
    decay: Literal["none", "linear", "cosine"] = "none"
    decay_end: PositiveInt | None = None
    final_learning_rate: NonNegativeFloat = 0.0
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    gradient_clip: PositiveFloat | None = None
    ema_decay: Fraction = 0.9999
    second_ema_decay: Fraction | None = None
    label_dropout: Fraction = 0.1
    precision: Literal["auto", "float32", "tf32", "bf16"] = "auto"
    trains_fixed_tables: bool = False


class Guide(Frozen):
    """The weaker network of autoguidance: an exact name such as `rae-dit-dh-s`, and the digest of its weights."""

    backbone: str
    network: dict[str, Any]
    weights_sha256: str


class Guidance(Frozen):
    """Guidance: u + scale (c - u) where t is in `interval`, t = 0 noise, and with the scale `outside` elsewhere.

    u is the prediction without a class, or with a `guide` the guide's (autoguidance).  `channels` and `edges` are the
    family's ways: DiT and SiT guide the first three channels; "closed" intervals include both ends, "open" ones
    neither (but 0), "left-open" ones the later.  Say `chosen` "tuned" where scale or interval were chosen by the score.
    """

    scale: NonNegativeFloat = 1.0
    interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    outside: NonNegativeFloat = 1.0
    channels: Literal["first-three", "all"] = "first-three"
    edges: Literal["closed", "open", "left-open"] = "closed"
    chosen: Literal["untuned", "tuned"] = "untuned"
    guide: Guide | None = None

    @model_validator(mode="after")
    def _check_order(self) -> "Guidance":
        if self.interval[0] > self.interval[1]:
            raise ValueError("an interval starts at its lower end")
        return self


class Weights(Frozen):
    """A released model that is measured instead of a trained one: which file, which entry of it."""

    name: str
    sha256: str
    entry: str = ""


class ThirdParty(Frozen):
    """The file outside this repository that a backbone came from: its name without folders, and its SHA-256."""

    file: str
    sha256: str


class Protocol(Frozen):
    """How a trained denoiser is measured: `num_images` with exactly balanced labels, from EMA weights.

    `noise_levels` are the times (0 noise, 1 data) at which `outlier_images` training images are probed.
    """

    version: PositiveInt = 1
    num_images: PositiveInt = 1000
    guidance: Guidance = Guidance()
    uint8_rule: Uint8Rule = "round"
    noise_levels: tuple[Fraction, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    outlier_images: PositiveInt = 64


class Execution(Frozen):
    """Where and how a run is carried out.  No part of what the run is: its id and its record leave it out.

    `processes` share each batch and the sampling; `rank` is this one's number among all, `local_rank` among those of
    its machine.  `sharding` "fsdp" also shares the weights.  Each process takes its part of a batch in `accumulate`
    pieces.  `compiled` networks go through torch.compile.  `backbone_file` is where a third party's backbone lies.
    """

    device: str = "auto"
    threads: NonNegativeInt = 0
    processes: PositiveInt = 1
    rank: NonNegativeInt = 0
    local_rank: NonNegativeInt = 0
    sharding: Literal["ddp", "fsdp"] = "ddp"
    accumulate: PositiveInt = 1
    compiled: bool = False
    sampling_batch: PositiveInt = 256
    data: str | None = None
    backbone_file: str | None = None
    weights: str | None = None
    guide: str | None = None
    vae: str | None = None
    encoder: str | None = None
    encoder_weights: str | None = None
    registered_weights: str | None = None
    decoder: str | None = None
    statistics: str | None = None
    text_encoder: str | None = None
    references: tuple[str, ...] = ()
    references_dir: Path = Path("references")
    extractor_weights: tuple[str, ...] = ()
    results: str = "results"
    runs: str = "runs"


class RunConfig(Frozen):
    """Everything that decides a run's outcome, plus where it is carried out."""

    backbone: str
    size: str
    network: dict[str, Any]
    registers: RegisterConfig
    task: Task
    objective: Objective
    recipe: Recipe
    sampler: Sampler
    protocol: Protocol
    seed: Seed = 0
    latents: Latents = PixelLatents()
    text: TextConfig | None = None
    weights: Weights | None = None
    third_party: ThirdParty | None = None
    execution: Execution = Field(default=Execution(), exclude_if=lambda execution: execution == Execution())

    @property
    def run_id(self) -> str:
        """12 hexadecimal digits: equal for equal runs, unmoved by a new field here that keeps its default.

        The network counts whole: a family that adds a dimension to it makes other runs.
        """
        return self.identity.run_id(self.seed)

    @property
    def arm_id(self) -> str:
        """The same for every seed, and whichever statistics follow the encoder's registers: nothing else differs."""
        return self.identity.arm_id

    @property
    def identity(self) -> Identity:
        """What the ids rest on, but for the seed; a text encoder counts by its digest, not by its name."""
        return identity_of(self.model_dump_json(exclude_defaults=True, exclude=NO_PART_OF_ID))

    @property
    def training_steps(self) -> int:
        """How many steps are trained: the recipe's, or more where a longer training stands against registers."""
        return self.registers.training_steps(self.recipe.steps)

    @property
    def exact_name(self) -> str:
        """The backbone with its size: `sit-xl-2`."""
        return f"{self.backbone}-{self.size}"

    def without_registers(self) -> "RunConfig":
        """The matched arm: this run, seed and all, with no registers."""
        plain = RegisterConfig(native_tokens=self.registers.native_tokens)
        return self.model_copy(update={"registers": plain})

    def published(self) -> "RunConfig":
        """This run as its record keeps it: without the paths and devices of one machine."""
        return self.model_copy(update={"execution": Execution()})
