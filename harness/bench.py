"""What registers cost in time: a training step and a forward pass with and without them, against their operations."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.build import build, size_of
from harness.denoiser import Denoiser
from harness.objective import objective_of
from harness.progress import Progress
from harness.spec import RunConfig
from harness.text_table import columns
from harness.train import autocast, optimizer_of

WARM_UP = 2


@dataclass(frozen=True)
class Place:
    """Where something is timed, and in which arithmetic: float32 or bf16."""

    device: torch.device
    precision: str

    def wait(self) -> None:
        """Until the device has done what it was asked: a GPU only queues it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


CPU = Place(torch.device("cpu"), "float32")


@dataclass(frozen=True)
class Ratio:
    """Seconds with registers over seconds without, pair by pair: the median, and the smallest and largest pair."""

    median: float
    least: float
    greatest: float

    def over(self, expected: float) -> "Ratio":
        """This ratio in units of another."""
        return Ratio(self.median / expected, self.least / expected, self.greatest / expected)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f} to {self.greatest:.3f})"


@dataclass(frozen=True)
class Overhead:
    """One backbone's overhead.  `*_over_operations` are ratios of ratios: 1 means that time grows as operations do."""

    backbone: str
    registers: str
    batch_size: int
    pairs: int
    operations: float
    training_seconds: float
    sampling_seconds: float
    training: Ratio
    sampling: Ratio

    @property
    def training_over_operations(self) -> Ratio:
        return self.training.over(self.operations)

    @property
    def sampling_over_operations(self) -> Ratio:
        return self.sampling.over(self.operations)

    def shown(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self) | {
            "training_over_operations": asdict(self.training_over_operations),
            "sampling_over_operations": asdict(self.sampling_over_operations),
        }


def overhead(config: RunConfig, batch_size: int, pairs: int) -> Overhead:
    """Time a run's network with its registers and without, in one process, in turns, the order changing each time.

    Random data, float32, the recipe's optimizer and EMA; the seconds are those without registers.
    """
    torch.set_num_threads(config.execution.threads)
    arms = [config.without_registers(), config]
    plain, ours = (size_of(arm).flops for arm in arms)
    training = paired([training_step(arm, batch_size, CPU) for arm in arms], pairs, f"{config.exact_name} training")
    forward = [forward_pass(arm, build(arm), batch_size, CPU) for arm in arms]
    sampling = paired(forward, pairs, f"{config.exact_name} sampling")
    return Overhead(
        backbone=config.exact_name,
        registers=config.registers.preset,
        batch_size=batch_size,
        pairs=pairs,
        operations=ours / plain,
        training_seconds=statistics.median(seconds for seconds, _ in training),
        sampling_seconds=statistics.median(seconds for seconds, _ in sampling),
        training=ratio_of(training),
        sampling=ratio_of(sampling),
    )


def report(found: list[Overhead]) -> str:
    """A line for each backbone."""
    head = ["backbone", "registers", "batch", "GFLOP ratio", "training step", "over GFLOPs", "forward", "over GFLOPs"]
    rows = [
        [
            each.backbone,
            each.registers,
            str(each.batch_size),
            f"{each.operations:.3f}",
            str(each.training),
            str(each.training_over_operations),
            str(each.sampling),
            str(each.sampling_over_operations),
        ]
        for each in found
    ]
    return columns([head, *rows]) + "\nmedian (least to greatest) of pairs: seconds with registers / seconds without"


def training_step(config: RunConfig, batch_size: int, place: Place) -> Callable[[], None]:
    """A step of the recipe's optimizer and EMA over random data, from the call until the device is idle again."""
    device = place.device
    denoiser = build(config).to(device).train()
    optimizer, objective = optimizer_of(config, denoiser), objective_of(config)
    weights = [parameter.detach() for parameter in denoiser.parameters()]
    ema = [weight.clone() for weight in weights]
    channels, side = config.network["in_channels"], config.network["input_size"]
    data, noise = (torch.randn(batch_size, channels, side, side, device=device) for _ in range(2))
    labels_N = torch.arange(batch_size, device=device) % config.network["num_classes"]
    times_N = objective.training_times(torch.rand(batch_size, device=device))

    def step() -> None:
        with autocast(device, place.precision):
            weight = denoiser.loss_weight(data, times_N)
            losses_N = objective.loss(lambda x, t_N: denoiser(x, t_N, labels_N), data, noise, times_N, weight)
        optimizer.zero_grad(set_to_none=True)
        losses_N.float().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        torch._foreach_lerp_(ema, weights, 1 - config.recipe.ema_decay)
        place.wait()

    return step


def forward_pass(
    config: RunConfig, denoiser: Denoiser, batch_size: int, place: Place, *, with_registers: bool = True
) -> Callable[[], None]:
    """A pass of a denoiser, which is put there, over random data, from the call until the device is idle again."""
    device = place.device
    denoiser.to(device).eval()
    channels, side = config.network["in_channels"], config.network["input_size"]
    x, t_N = torch.randn(batch_size, channels, side, side, device=device), torch.full((batch_size,), 0.5, device=device)
    labels_N = torch.arange(batch_size, device=device) % config.network["num_classes"]

    def forward() -> None:
        with torch.no_grad(), autocast(device, place.precision):
            denoiser(x, t_N, labels_N, with_registers=with_registers)
        place.wait()

    return forward


def paired(actions: list[Callable[[], None]], pairs: int, title: str) -> list[tuple[float, float]]:
    """Seconds (without, with) of each pair of runs, the order changing each time, after a few to warm up."""
    for action in actions:
        for _ in range(WARM_UP):
            action()
    timed = []
    with Progress(title, pairs) as progress:
        for pair in range(pairs):
            order = (0, 1) if pair % 2 == 0 else (1, 0)
            seconds = {arm: _seconds(actions[arm]) for arm in order}
            timed.append((seconds[0], seconds[1]))
            progress.advance(1)
    return timed


def repeated(action: Callable[[], None], repeats: int, title: str) -> list[float]:
    """Seconds of each of so many runs, after a few to warm up."""
    for _ in range(WARM_UP):
        action()
    timed = []
    with Progress(title, repeats) as progress:
        for _ in range(repeats):
            timed.append(_seconds(action))
            progress.advance(1)
    return timed


def _seconds(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def ratio_of(timed: list[tuple[float, float]]) -> Ratio:
    """The ratio of pairs of seconds, (without, with)."""
    ratios = [ours / plain for plain, ours in timed]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
