"""Train a denoiser, from wherever the last attempt stopped."""

# N batch, n images of one piece of it

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.checkpoint import Checkpoints, State
from harness.denoiser import Denoiser
from harness.distributed import ALONE, World
from harness.errors import UserError
from harness.objective import Model, Objective, objective_of
from harness.prefetch import ahead, link_to
from harness.progress import Progress
from harness.replicas import Replica, replica_of
from harness.schedule import learning_rate
from harness.source import Source
from harness.spec import Recipe, RunConfig
from harness.training_draw import Draw, draw_step, numbers_of, shares_of

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
    *,
    world: World = ALONE,
) -> Training:
    """Train in place; afterwards the denoiser holds its EMA weights, all of them in every process of the world.

    Data, noise, times and dropped labels of a step are functions of (seed, step), so that a training which was killed
    and resumed ends with the same bytes, and arms that differ in registers alone see the same numbers.  Processes and
    pieces share the recipe's batch, which moves a loss by its rounding alone.  Dropout inside a network (JiT-H) draws
    from torch's own generator, which arms do not share: the first process's is kept in checkpoints, the others' begin
    anew with each step.  A loss that is not finite ends the training, and is a result: `diverged_at_step`.

    Raises UserError where the processes do not see the same checkpoints.
    """
    session = _Session(config, denoiser, checkpoints, world)
    session.run(objective_of(config), source, precision)
    session.finish(denoiser)
    names = [name for name, _ in denoiser.named_parameters()]
    second = dict(zip(names, map(session.replica.whole, session.second_ema), strict=False))
    return Training(session.losses, session.seconds, session.diverged_at_step, second)


class _Session:
    """One attempt: the state that checkpoints hold, and the loop that changes it."""

    def __init__(self, config: RunConfig, denoiser: Denoiser, checkpoints: Checkpoints, world: World) -> None:
        self.config, self.checkpoints, self.world = config, checkpoints, world
        self.device = next(denoiser.parameters()).device
        if config.recipe.trains_fixed_tables:
            denoiser.requires_grad_(requires_grad=True)
        state = checkpoints.load()
        if state is not None:
            assert state["run_id"] == config.run_id, "a checkpoint of another run"
            denoiser.load_state_dict(state["model"])
        self.replica = replica_of(config, denoiser, world)
        self.trained = self.replica.trained
        self.weights = [parameter.detach() for parameter in self.trained.parameters()]
        self.ema = [weight.clone() for weight in self.weights]
        has_second = config.recipe.second_ema_decay is not None
        self.second_ema = [weight.clone() for weight in self.weights] if has_second else []
        self.optimizer = optimizer_of(config, self.trained)
        self.steps = config.training_steps
        self.losses = torch.full((self.steps,), torch.nan)
        self.step, self.seconds = 0, 0.0
        if state is not None:
            self._restore(state)
        self._require_same_start()
        self.diverged_at_step = _first_not_finite(self.losses[: self.step])

    def run(self, objective: Objective, source: Source, precision: str) -> None:
        """Train until the end or a divergence, saving whenever it is time to."""
        started = time.monotonic() - self.seconds
        self.replica.network.train()
        shares, link = shares_of(self.config, self.world), link_to(self.device, numbers_of(self.config, source))

        def draw(step: int) -> Draw:
            return draw_step(self.config, self.trained, source, step, shares.held).moved(link.send)

        def understood(drawn: Draw) -> _Batch:
            with autocast(self.device, precision):
                return _batch(objective, self.trained, source, drawn.moved(link.receive))

        steps = range(self.step, self.steps if self.diverged_at_step is None else self.step)
        recent: list[Tensor] = []
        with Progress("training", self.steps, self.step) as progress, ahead(draw, steps, link) as draws:
            for batch in map(understood, draws):
                recent.append(self._advance(objective, [batch.piece(piece) for piece in shares.pieces], precision))
                if self.step == self.steps or self.step % LOG_EVERY == 0:
                    self._settle(recent)
                    progress.advance(len(recent), f"loss {self.losses[self.step - 1]:.4f}")
                    recent = []
                    self.seconds = time.monotonic() - started
                    has_ended = self.step == self.steps or self.diverged_at_step is not None
                    if has_ended or self.world.agree(self.checkpoints.due()):
                        self._save()
                    if has_ended:
                        break

    def finish(self, denoiser: Denoiser) -> None:
        """Leave the EMA weights in the denoiser."""
        self.replica.leave(denoiser, self.ema)
        denoiser.eval()

    def _advance(self, objective: Objective, pieces: "list[_Batch]", precision: str) -> Tensor:
        recipe = self.config.recipe
        _separate_dropout(self.config.seed, self.step, self.world)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        with self.replica.holding_back() if len(pieces) > 1 else nullcontext():
            losses = [self._learn(objective, piece, precision) for piece in pieces[:-1]]
        losses.append(self._learn(objective, pieces[-1], precision))
        weights, *averages = (list(map(self.replica.local, each)) for each in (self.weights, self.ema, self.second_ema))
        take_step(recipe, self.trained, self.optimizer, weights, averages)
        self.step += 1
        return torch.stack(losses).sum()

    def _learn(self, objective: Objective, piece: "_Batch", precision: str) -> Tensor:
        """This piece's part of the batch's mean loss, and of its gradient."""
        with autocast(self.device, precision):
            model = piece.model(self.replica.network)
            losses_n = objective.loss(model, piece.data, piece.noise, piece.times_n, piece.weight)
        loss = losses_n.float().sum() / self.config.recipe.batch_size
        # Gradients are averaged over processes, and each has its part of the sum.
        (loss * self.world.size).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _settle(self, recent: list[Tensor]) -> None:
        """Move the last losses off the device, the only time that it is waited for, and look for a divergence."""
        self.losses[self.step - len(recent) : self.step] = self.world.sum(torch.stack(recent)).cpu()
        self.diverged_at_step = _first_not_finite(self.losses[: self.step])

    def _save(self) -> None:
        """Keep the state as one process alone would; all take part, because each may have a share of it."""
        optimizer = self.optimizer.state_dict()
        gathered = self.replica.gathered
        moments = {
            index: {name: gathered(value) for name, value in of_one.items()}
            for index, of_one in optimizer["state"].items()
        }
        state: State = {
            "run_id": self.config.run_id,
            "model": {name: gathered(value) for name, value in self.trained.state_dict().items()},
            "ema": [gathered(average) for average in self.ema],
            "second_ema": [gathered(average) for average in self.second_ema],
            "optimizer": optimizer | {"state": moments},
            "losses": self.losses,
            "seconds": self.seconds,
        }
        if self.world.is_first:
            self.checkpoints.save(self.step, state)
        # A disk may take longer for it than the others would wait for their next step's sums.
        self.world.wait()

    def _restore(self, state: State) -> None:
        """All but the weights, which the network had before they were shared out."""
        for averages, stored in ((self.ema, state["ema"]), (self.second_ema, state.get("second_ema", []))):
            for average, full in zip(averages, stored, strict=True):
                self.replica.local(average).copy_(self.replica.local(self.replica.shared_like(full, average)))
        self.optimizer.load_state_dict(_shared_out(state["optimizer"], self.optimizer, self.replica))
        self.losses = state["losses"]
        self.step, self.seconds = state["step"], state["seconds"]

    def _require_same_start(self) -> None:
        first = self.world.agree(self.step)
        if first != self.step:
            raise UserError(
                f"the first process goes on from step {first}, and process {self.world.rank} from step {self.step}:"
                f" {self.checkpoints.folder} is not the same folder for both",
                "put --runs on a disk that all machines of a run share",
            )


@dataclass(frozen=True)
class _Batch:
    """What the loss sees of n images: data and noise (n, C, H, W), times and labels (n,), and the elements' weight."""

    with_registers: bool
    weight: Tensor | float
    data: Tensor
    noise: Tensor
    times_n: Tensor
    labels_n: Tensor

    def piece(self, where: slice) -> "_Batch":
        """A stretch of it."""
        weight = self.weight[where] if isinstance(self.weight, Tensor) else self.weight
        tensors = (each[where] for each in (self.data, self.noise, self.times_n, self.labels_n))
        return _Batch(self.with_registers, weight, *tensors)

    def model(self, network: nn.Module) -> Model:
        """The network with the labels, and with or without its registers."""
        return lambda x, t_n: network(x, t_n, self.labels_n, with_registers=self.with_registers)


def _batch(objective: Objective, denoiser: Denoiser, source: Source, draw: Draw) -> _Batch:
    data = source.latents(draw.read, draw.posterior)
    times_n = objective.training_times(draw.uniform_n)
    weight = denoiser.loss_weight(data, times_n)
    return _Batch(draw.with_registers, weight, data, draw.noise, times_n, draw.labels_n)


def _separate_dropout(seed: int, step: int, world: World) -> None:
    """Let other processes than the first, which goes on as one alone would, draw other numbers inside the network.

    Checkpoints keep the first one's generator alone: the others' is a function of the step.
    """
    if not world.is_first:
        (own,) = np.random.SeedSequence([seed, step, world.rank]).generate_state(1)
        torch.manual_seed(int(own))


def _shared_out(stored: dict[str, Any], optimizer: torch.optim.Optimizer, replica: Replica) -> dict[str, Any]:
    """A whole optimizer's state, each parameter's as that is shared out."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {name: replica.shared_like(value, parameters[index]) for name, value in of_one.items()}
        for index, of_one in stored["state"].items()
    }
    return stored | {"state": state}


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


def take_step(
    recipe: Recipe,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: list[Tensor],
    averages: Sequence[list[Tensor]],
) -> None:
    """Cut the gradients, step, and move the averages: one for each decay of the recipe, and nothing for one it lacks.

    `weights` are those of the network that this process holds.
    """
    if recipe.gradient_clip is not None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip)
    optimizer.step()
    for average, decay in zip(averages, (recipe.ema_decay, recipe.second_ema_decay), strict=True):
        if decay is not None:
            torch._foreach_lerp_(average, weights, 1 - decay)


def _first_not_finite(losses: Tensor) -> int | None:
    """The first step, counted from 1, whose loss is not a number."""
    bad = torch.nonzero(~torch.isfinite(losses))
    return int(bad[0]) + 1 if len(bad) else None
