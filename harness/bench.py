"""Time things in turns: what every bench measures with."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.bench_records import BenchCase, Quartiles
from harness.build import build
from harness.denoiser import Denoiser
from harness.machine import decide_precision, find_device, name_of
from harness.objective import objective_of
from harness.progress import Progress
from harness.records import Measurement
from harness.replicas import compiled as compiled_whole
from harness.spec import RunConfig
from harness.stopwatch import seconds_of
from harness.train import autocast, optimizer_of, take_step

WARM_UP = 2

Action = Callable[[], None]


@dataclass(frozen=True)
class Place:
    """Where something is timed, and in which arithmetic: float32 or bf16."""

    device: torch.device
    precision: str

    @classmethod
    def of(cls, config: RunConfig) -> "Place":
        """Where a run is carried out, with its threads from now on."""
        torch.set_num_threads(config.execution.threads)
        device = find_device(config.execution.device)
        return cls(device, decide_precision(config.recipe.precision, device))

    @property
    def name(self) -> str:
        """What the device is called."""
        return name_of(self.device)

    def wait(self) -> None:
        """Until the device has done what it was asked: a GPU only queues it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


CPU = Place(torch.device("cpu"), "float32")


@dataclass(frozen=True)
class Ratio:
    """Seconds of one thing over seconds of another, pair by pair: the median, and the smallest and largest pair."""

    median: float
    least: float
    greatest: float

    def over(self, expected: float) -> "Ratio":
        """This ratio in units of another."""
        return Ratio(self.median / expected, self.least / expected, self.greatest / expected)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f} to {self.greatest:.3f})"


@dataclass(frozen=True)
class Timing:
    """Seconds of one action: the median of its repeats, and their first and third quartile."""

    median: float
    first_quartile: float
    third_quartile: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Of all repeats."""
        first, median, third = np.quantile(seconds, [0.25, 0.5, 0.75])
        return cls(float(median), float(first), float(third))

    def per_second(self, count: int) -> Quartiles:
        """How many a second, where the action makes `count` of something."""
        return Quartiles(
            median=count / self.median,
            first_quartile=count / self.third_quartile,
            third_quartile=count / self.first_quartile,
        )

    def __str__(self) -> str:
        return f"{self.median:.4g} s ({self.first_quartile:.4g} to {self.third_quartile:.4g})"


@dataclass(frozen=True)
class TimedArm:
    """A configuration, eager or compiled, as arms are told apart; `batch_seconds` are those of one batch."""

    config: RunConfig
    compiled: bool
    gflops: float
    batch_seconds: Timing
    ratio: Ratio

    @property
    def how(self) -> str:
        """In a word."""
        return "compiled" if self.compiled else "eager"

    @property
    def title(self) -> str:
        """For a person."""
        return f"{self.config.exact_name}, registers {self.config.registers.preset}, {self.how}"

    def case(self, batch: int, place: Place, measurements: Iterable[Measurement]) -> BenchCase:
        """For a record."""
        return BenchCase(
            title=self.title,
            backbone=self.config.exact_name,
            network=self.config.network,
            registers=self.config.registers,
            batch=batch,
            compiled=self.compiled,
            precision=place.precision,
            gflops=self.gflops,
            images_per_second=self.batch_seconds.per_second(batch),
            measurements=tuple(measurements),
        )


def training_step(config: RunConfig, batch_size: int, place: Place, *, compiled: bool = False) -> Action:
    """A step of the recipe's optimizer and EMA over random data, from the call until the device is idle again.

    The first call of a compiled one compiles: the whole denoiser, for these shapes alone.
    """
    device = place.device
    denoiser = build(config).to(device).train()
    network = compiled_whole(denoiser) if compiled else denoiser
    optimizer, objective = optimizer_of(config, denoiser), objective_of(config)
    weights = [parameter.detach() for parameter in denoiser.parameters()]
    has_second = config.recipe.second_ema_decay is not None
    averages = [[weight.clone() for weight in weights], [weight.clone() for weight in weights] if has_second else []]
    channels, side = config.network["in_channels"], config.network["input_size"]
    data, noise = (torch.randn(batch_size, channels, side, side, device=device) for _ in range(2))
    labels_N = torch.arange(batch_size, device=device) % config.network["num_classes"]
    times_N = objective.training_times(torch.rand(batch_size, device=device))

    def step() -> None:
        with autocast(device, place.precision):
            weight = denoiser.loss_weight(data, times_N)
            losses_N = objective.loss(lambda x, t_N: network(x, t_N, labels_N), data, noise, times_N, weight)
        optimizer.zero_grad(set_to_none=True)
        losses_N.float().mean().backward()  # type: ignore[no-untyped-call]
        take_step(config.recipe, denoiser, optimizer, weights, averages)
        place.wait()

    return step


def forward_pass(
    config: RunConfig,
    denoiser: Denoiser,
    batch_size: int,
    place: Place,
    *,
    with_registers: bool = True,
) -> Action:
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


def in_turns(actions: Sequence[Action], rounds: int, title: str) -> list[tuple[float, ...]]:
    """Seconds of every action in each round, after a few rounds to warm up.

    A round begins one action later than the round before: whatever disturbs the machine disturbs them alike.
    """
    for _ in range(WARM_UP):
        for action in actions:
            action()
    timed = []
    with Progress(title, rounds) as progress:
        for first in range(rounds):
            order = [(first + place) % len(actions) for place in range(len(actions))]
            seconds = {index: seconds_of(actions[index]) for index in order}
            timed.append(tuple(seconds[index] for index in range(len(actions))))
            progress.advance(1)
    return timed


def repeated(action: Action, repeats: int, title: str) -> list[float]:
    """Seconds of each of so many runs, after a few to warm up."""
    return [seconds for (seconds,) in in_turns([action], repeats, title)]


def ratio_of(timed: Sequence[tuple[float, ...]], of: int = 1, over: int = 0) -> Ratio:
    """The ratio of two of the actions that were timed in turns."""
    ratios = [seconds[of] / seconds[over] for seconds in timed]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
