"""Train a denoiser, from wherever the last attempt stopped."""

# N batch, C channels, H height, W width

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from harness.checkpoint import Checkpoints, State
from harness.denoiser import Denoiser
from harness.objective import Objective, objective_of
from harness.progress import Progress
from harness.randomness import Stream, generator
from harness.schedule import learning_rate
from harness.source import Source, training_batch
from harness.spec import RunConfig

LOG_EVERY = 10


@dataclass(frozen=True)
class Training:
    """How a training ended: the loss of each step (NaN where there was none), and the seconds of all attempts.

    `second_ema` holds the other averages by the parameters' names, where the recipe keeps some.
    """

    losses: Tensor
    seconds: float
    diverged_at_step: int | None
    second_ema: Mapping[str, Tensor] = field(default_factory=dict)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The arithmetic of a precision that has been decided: float32 or bf16."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def train(
    config: RunConfig,
    denoiser: Denoiser,
    source: Source,
    checkpoints: Checkpoints,
    precision: str,
) -> Training:
    """Train in place; afterwards the denoiser holds its EMA weights.

    Data, noise, times and dropped labels of a step are functions of (seed, step), so that a training which was killed
    and resumed ends with the same bytes, and arms that differ in registers alone see the same numbers.  Dropout inside
    a network (JiT-H) draws from torch's own generator, which checkpoints keep, but arms do not share.  A loss that
    is not finite ends the training, and is a result: `diverged_at_step`.
    """
    session = _Session(config, denoiser, checkpoints)
    session.run(objective_of(config), source, precision)
    session.finish()
    names = [name for name, _ in denoiser.named_parameters()]
    second = dict(zip(names, session.second_ema, strict=False))
    return Training(session.losses, session.seconds, session.diverged_at_step, second)


class _Session:
    """One attempt: the state that checkpoints hold, and the loop that changes it."""

    def __init__(self, config: RunConfig, denoiser: Denoiser, checkpoints: Checkpoints) -> None:
        self.config, self.denoiser, self.checkpoints = config, denoiser, checkpoints
        self.device = next(denoiser.parameters()).device
        if config.recipe.trains_fixed_tables:
            denoiser.requires_grad_(requires_grad=True)
        self.weights = [parameter.detach() for parameter in denoiser.parameters()]
        self.ema = [weight.clone() for weight in self.weights]
        has_second = config.recipe.second_ema_decay is not None
        self.second_ema = [weight.clone() for weight in self.weights] if has_second else []
        self.optimizer = optimizer_of(config, denoiser)
        self.steps = config.training_steps
        self.losses = torch.full((self.steps,), torch.nan)
        self.step, self.seconds = 0, 0.0
        state = checkpoints.load()
        if state is not None:
            self._restore(state)
        self.diverged_at_step = _first_not_finite(self.losses[: self.step])

    def run(self, objective: Objective, source: Source, precision: str) -> None:
        """Train until the end or a divergence, saving whenever it is time to."""
        started = time.monotonic() - self.seconds
        self.denoiser.train()
        recent: list[Tensor] = []
        with Progress("training", self.steps, self.step) as progress:
            while self.step < self.steps and self.diverged_at_step is None:
                recent.append(self._advance(objective, source, precision))
                last = self.step == self.steps
                if last or self.step % LOG_EVERY == 0:
                    self._settle(recent)
                    progress.advance(len(recent), f"loss {self.losses[self.step - 1]:.4f}")
                    recent = []
                    self.seconds = time.monotonic() - started
                    if last or self.checkpoints.due():
                        self._save()

    def finish(self) -> None:
        """Leave the EMA weights in the denoiser."""
        for weight, average in zip(self.weights, self.ema, strict=True):
            weight.copy_(average)
        self.denoiser.eval()

    def _advance(self, objective: Objective, source: Source, precision: str) -> Tensor:
        recipe = self.config.recipe
        draw = _draw(self.config, self.denoiser, source, self.step, self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        with autocast(self.device, precision):
            times = objective.training_times(draw.uniform)
            weight = self.denoiser.loss_weight(draw.data, times)
            losses_N = objective.loss(draw.model(self.denoiser), draw.data, draw.noise, times, weight)
        loss = losses_N.float().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), recipe.gradient_clip)
        self.optimizer.step()
        torch._foreach_lerp_(self.ema, self.weights, 1 - recipe.ema_decay)
        if recipe.second_ema_decay is not None:
            torch._foreach_lerp_(self.second_ema, self.weights, 1 - recipe.second_ema_decay)
        self.step += 1
        return loss.detach()

    def _settle(self, recent: list[Tensor]) -> None:
        """Move the last losses off the device, the only time that it is waited for, and look for a divergence."""
        self.losses[self.step - len(recent) : self.step] = torch.stack(recent).cpu()
        self.diverged_at_step = _first_not_finite(self.losses[: self.step])

    def _save(self) -> None:
        state: State = {
            "run_id": self.config.run_id,
            "model": self.denoiser.state_dict(),
            "ema": self.ema,
            "second_ema": self.second_ema,
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "seconds": self.seconds,
        }
        self.checkpoints.save(self.step, state)

    def _restore(self, state: State) -> None:
        assert state["run_id"] == self.config.run_id, "a checkpoint of another run"
        self.denoiser.load_state_dict(state["model"])
        for average, stored in zip(self.ema, state["ema"], strict=True):
            average.copy_(stored)
        for average, stored in zip(self.second_ema, state.get("second_ema", []), strict=True):
            average.copy_(stored)
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = state["losses"]
        self.step, self.seconds = state["step"], state["seconds"]


@dataclass(frozen=True)
class _Draw:
    """All that is random in one step."""

    data: Tensor
    labels: Tensor
    noise: Tensor
    uniform: Tensor
    with_registers: bool

    def model(self, denoiser: Denoiser) -> Callable[[Tensor, Tensor], Tensor]:
        """The denoiser with the step's labels, and with or without its registers."""
        return lambda x, t_N: denoiser(x, t_N, self.labels, with_registers=self.with_registers)


def _draw(config: RunConfig, denoiser: Denoiser, source: Source, step: int, device: torch.device) -> _Draw:
    batch = training_batch(config, source, step)
    random = generator(config.seed, Stream.TRAINING, step)
    noise = random.standard_normal(tuple(batch.data.shape), dtype=np.float32)
    uniform = random.random(len(batch.labels), dtype=np.float32)
    labels = batch.labels
    if config.recipe.label_dropout:
        assert denoiser.null_label is not None, "labels are dropped from a network without a null class"
        dropped = random.random(len(labels)) < config.recipe.label_dropout
        labels = np.where(dropped, denoiser.null_label, labels)
    guidance = config.registers.guidance
    with_registers = guidance is None or random.random() >= guidance.drop_probability
    labels_N, noise_NCHW, uniform_N = (torch.from_numpy(array).to(device) for array in (labels, noise, uniform))
    return _Draw(batch.data, labels_N, noise_NCHW, uniform_N, with_registers)


def optimizer_of(config: RunConfig, denoiser: Denoiser) -> torch.optim.AdamW:
    """The recipe's AdamW over whatever is trained."""
    recipe = config.recipe
    return torch.optim.AdamW(
        [parameter for parameter in denoiser.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.epsilon,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _first_not_finite(losses: Tensor) -> int | None:
    """The first step, counted from 1, whose loss is not a number."""
    bad = torch.nonzero(~torch.isfinite(losses))
    return int(bad[0]) + 1 if len(bad) else None
