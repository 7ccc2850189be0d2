"""What a run is, before it runs: frozen data, without torch."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Epsilon = Annotated[float, Field(gt=0, lt=0.5)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


class Frozen(BaseModel):
    """Data that is decided once: no assignment, no unknown field, no infinity, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)


class DenoiserRegisters(Frozen):
    """Diffusion registers: learned tokens in the denoiser (DSR, arXiv 2605.05206, section 1.4 of its code).

    `count` tokens enter before block `start_block` (0 is the first) and leave after the last block.
    """

    count: PositiveInt
    start_block: NonNegativeInt


class RegisterConfig(Frozen):
    """Which registers a run has, stage by stage.  `preset` is the name that was asked for.

    `absent_stages` are stages that the preset names and the backbone cannot have, such as the encoder stage
    where no transformer makes the latents.
    """

    preset: str = "none"
    denoiser: DenoiserRegisters | None = None
    absent_stages: tuple[Literal["encoder", "denoiser"], ...] = ()


class Task(Frozen):
    """Images to learn and to make: `channels` x `image_size` x `image_size`, in `num_classes` classes."""

    name: str
    channels: PositiveInt
    image_size: PositiveInt
    num_classes: PositiveInt
    horizontal_flip: bool = False
    class_names: tuple[str, ...] = ()
    data_fingerprint: str = ""
    metric: Literal["fd_digits", "none"] = "none"


class FlowObjective(Frozen):
    """SiT's interpolants: x_t = alpha(t) data + sigma(t) noise, t = 0 noise (SiT, arXiv 2401.08740).

    The epsilons keep training and sampling away from the ends where formulas diverge (None: the official values); a
    velocity on the linear or the GVP path needs none and ignores them.
    """

    kind: Literal["flow"]
    path: Literal["linear", "gvp", "vp"] = "linear"
    prediction: Literal["velocity", "noise", "score"] = "velocity"
    loss_weight: Literal["none", "velocity", "likelihood"] = "none"
    training_epsilon: Epsilon | None = None
    sampling_epsilon: Epsilon | None = None

    @property
    def is_direct(self) -> bool:
        """The only case in which no formula divides by something that is zero at an end of time."""
        return self.prediction == "velocity" and self.path != "vp"


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
    """Integrate the probability flow over `points` grid points: fixed-step methods take `points` - 1 steps."""

    kind: Literal["ode"]
    method: Literal["euler", "heun", "midpoint", "rk4", "dopri5"] = "dopri5"
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
    """How the denoiser is trained.  `warmup_steps` raise the rate linearly, after which it is constant.

    `precision` is the autocast type; "auto" is bf16 on an accelerator that has it, float32 elsewhere.
    """

    steps: PositiveInt
    batch_size: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-4
    warmup_steps: NonNegativeInt = 0
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    gradient_clip: PositiveFloat | None = None
    ema_decay: Fraction = 0.9999
    label_dropout: Fraction = 0.1
    precision: Literal["auto", "float32", "bf16"] = "auto"


class Guidance(Frozen):
    """Classifier-free guidance: u + scale (c - u) where interval[0] <= t <= interval[1]; t = 0 is noise."""

    scale: NonNegativeFloat = 1.0
    interval: tuple[Fraction, Fraction] = (0.0, 1.0)

    @model_validator(mode="after")
    def _check_order(self) -> "Guidance":
        if self.interval[0] > self.interval[1]:
            raise ValueError("an interval starts at its lower end")
        return self


class Protocol(Frozen):
    """How a trained denoiser is measured: `num_images` with exactly balanced labels, from EMA weights.

    `noise_levels` are the times (0 noise, 1 data) at which `outlier_images` training images are probed.
    """

    version: PositiveInt = 1
    num_images: PositiveInt = 1000
    guidance: Guidance = Guidance()
    uint8_rule: Literal["round", "truncate-128", "truncate-255"] = "round"
    noise_levels: tuple[Fraction, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    outlier_images: PositiveInt = 64


class Execution(Frozen):
    """Where and how a run is carried out.  No part of what the run is: its id and its record leave it out."""

    device: str = "auto"
    threads: NonNegativeInt = 0
    sampling_batch: PositiveInt = 256
    data: str | None = None
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
    execution: Execution = Field(default=Execution(), exclude_if=lambda execution: execution == Execution())

    @property
    def run_id(self) -> str:
        """12 hexadecimal digits: equal for equal runs, unmoved by a new field here that keeps its default.

        The network counts whole: a family that adds a dimension to it makes other runs.
        """
        return _digest(self._identity())

    @property
    def arm_id(self) -> str:
        """The same for every seed: runs of one arm differ in nothing else."""
        return _digest({**self._identity(), "seed": "any"})

    @property
    def exact_name(self) -> str:
        """The backbone with its size: `sit-xl-2`."""
        return f"{self.backbone}-{self.size}"

    def without_registers(self) -> "RunConfig":
        """The matched arm: this run, seed and all, with no registers."""
        return self.model_copy(update={"registers": RegisterConfig()})

    def published(self) -> "RunConfig":
        """This run as its record keeps it: without the paths and devices of one machine."""
        return self.model_copy(update={"execution": Execution()})

    def _identity(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"execution"})


def _digest(identity: dict[str, Any]) -> str:
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
