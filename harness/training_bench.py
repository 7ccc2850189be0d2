"""Training throughput: a backbone's register arms, eager and compiled, timed in turns."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.bench import Place, TimedArm, Timing, in_turns, ratio_of, training_step
from harness.bench_records import BenchCase
from harness.build import size_of
from harness.metrics import cost
from harness.records import Measurement
from harness.spec import RunConfig
from harness.stopwatch import seconds_of
from harness.text_table import columns

# A product of matrices that keeps any GPU busy, and how often it is done at once.
MATRIX_SIDE, PRODUCTS = 8192, 20


@dataclass(frozen=True)
class Arm(TimedArm):
    """One arm's training steps.  `ratio` is over the seconds of the first arm, `operations` over its operations.

    `first_step` are the seconds of the first step, which compiles where it is `compiled`; `memory` (MiB) is the most
    that the arm itself held on a GPU; `mfu` is over the maker's peak, `of_matrix_rate` over what this very card reaches
    in bf16 products of large matrices.  None where that is not known, as on every CPU.
    """

    operations: float
    first_step: float
    mfu: float | None
    of_matrix_rate: float | None
    memory: float | None


@dataclass(frozen=True)
class TrainingSpeed:
    """All arms of a backbone on one device; `matrix_rate` is in TFLOP/s."""

    place: Place
    batch: int
    rounds: int
    matrix_rate: float | None
    arms: tuple[Arm, ...]

    def shown(self) -> dict[str, Any]:
        """For machines."""
        return {
            "device": self.place.name,
            "precision": self.place.precision,
            "batch": self.batch,
            "rounds": self.rounds,
            "matrix_rate": self.matrix_rate,
            "arms": [self._arm_shown(arm) for arm in self.arms],
        }

    def cases(self) -> tuple[BenchCase, ...]:
        """For a record."""
        return tuple(arm.case(self.batch, self.place, self._measurements(arm)) for arm in self.arms)

    def report(self) -> str:
        """A line for each arm, and below them how they were timed."""
        head = [
            "backbone",
            "registers",
            "",
            "img/s",
            "step over the first",
            "GFLOPs over",
            "first step",
            *self._heads(),
        ]
        rows = [
            [
                arm.config.exact_name,
                arm.config.registers.preset,
                arm.how,
                str(arm.batch_seconds.per_second(self.batch)),
                str(arm.ratio),
                f"{arm.operations:.3f}",
                f"{arm.first_step:.3g} s",
                *(f"{value:.3g}" for value in _known(arm).values()),
            ]
            for arm in self.arms
        ]
        rate = f", {self.matrix_rate:.4g} TFLOP/s in bf16 matrix products" if self.matrix_rate else ""
        return (
            f"{columns([head, *rows])}\n{self.place.name}, {self.place.precision}, batch {self.batch}{rate}\n"
            f"img/s: median (first to third quartile) of {self.rounds} rounds in turns; seconds over those of the "
            "first arm: median (least to greatest) of the rounds"
        )

    def _heads(self) -> list[str]:
        return list(_known(self.arms[0]))

    def _arm_shown(self, arm: Arm) -> dict[str, Any]:
        numbers = {name: value for name, value in vars(arm).items() if name not in ("config", "batch_seconds", "ratio")}
        return {
            "backbone": arm.config.exact_name,
            "registers": arm.config.registers.preset,
            **numbers,
            "images_per_second": arm.batch_seconds.per_second(self.batch).model_dump(),
            "step": asdict(arm.batch_seconds),
            "ratio": asdict(arm.ratio),
        }

    def _measurements(self, arm: Arm) -> list[Measurement]:
        found = [
            Measurement(name="step_over_first_arm", value=arm.ratio.median, unit="ratio of seconds", better="lower"),
            Measurement(name="gflops_over_first_arm", value=arm.operations, unit="ratio", better="lower"),
            Measurement(name="first_step", value=arm.first_step, unit="s, compilation included", better="lower"),
        ]
        if arm.mfu is not None:
            found.append(Measurement(name="mfu", value=arm.mfu, unit="of the dense bf16 peak", better="higher"))
        if arm.of_matrix_rate is not None:
            unit = f"of {self.matrix_rate:.4g} TFLOP/s measured in bf16 products"
            found.append(Measurement(name="of_matrix_rate", value=arm.of_matrix_rate, unit=unit, better="higher"))
        if arm.memory is not None:
            found.append(Measurement(name="peak_memory", value=arm.memory, unit="MiB on the GPU", better="lower"))
        return found


def training_speed(configs: Sequence[RunConfig], modes: Sequence[bool], batch: int, rounds: int) -> TrainingSpeed:
    """Time every configuration, eager (False) and compiled (True) as `modes` say, in one process and in turns.

    Random weights and data, the recipe's optimizer and EMA.  The configurations share a device and a precision.
    """
    place = Place.of(configs[0])
    torch.compiler.reset()
    prepared = [_prepare(config, batch, place, compiled=compiled) for config in configs for compiled in modes]
    timed = in_turns([each.action for each in prepared], rounds, f"{configs[0].exact_name} training")
    rate = matrix_rate(place)
    arms = [_arm(prepared, index, timed, batch, device=place.name, rate=rate) for index in range(len(prepared))]
    return TrainingSpeed(place, batch, rounds, rate, tuple(arms))


def matrix_rate(place: Place) -> float | None:
    """TFLOP/s that a GPU reaches in bf16 products of large matrices, the best of five; None on a CPU."""
    if place.device.type != "cuda":
        return None
    a, b = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=place.device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, b)
        place.wait()

    seconds = [seconds_of(multiply) for _ in range(6)][1:]
    return 2 * MATRIX_SIDE**3 * PRODUCTS / min(seconds) / 1e12


@dataclass(frozen=True)
class _Prepared:
    """An arm's step, which has been made once."""

    config: RunConfig
    compiled: bool
    action: Any
    size: cost.Size
    first_step: float
    memory: float | None


def _prepare(config: RunConfig, batch: int, place: Place, *, compiled: bool) -> _Prepared:
    """The memory is that of two steps: the optimizer's state is made in the first."""
    on_gpu = place.device.type == "cuda"
    before = torch.cuda.memory_allocated(place.device) if on_gpu else 0
    action = training_step(config, batch, place, compiled=compiled)
    first_step = seconds_of(action)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(place.device)
    action()
    memory = (torch.cuda.max_memory_allocated(place.device) - before) / 2**20 if on_gpu else None
    return _Prepared(config, compiled, action, size_of(config), first_step, memory)


def _arm(
    prepared: Sequence[_Prepared],
    index: int,
    timed: Sequence[tuple[float, ...]],
    batch: int,
    *,
    device: str,
    rate: float | None,
) -> Arm:
    mine, step = prepared[index], Timing.of([seconds[index] for seconds in timed])
    used = cost.utilisation(mine.size, batch / step.median, device)
    teraflops = cost.FORWARD_PASSES_PER_STEP * mine.size.flops * batch / step.median / 1e12
    return Arm(
        config=mine.config,
        compiled=mine.compiled,
        gflops=mine.size.flops / 1e9,
        operations=mine.size.flops / prepared[0].size.flops,
        batch_seconds=step,
        ratio=ratio_of(timed, of=index),
        first_step=mine.first_step,
        mfu=used[0].value if used else None,
        of_matrix_rate=teraflops / rate if rate else None,
        memory=mine.memory,
    )


def _known(arm: Arm) -> dict[str, float]:
    """What is known of an arm on this device, by the heads of its columns."""
    every = {"MFU": arm.mfu, "of matrix rate": arm.of_matrix_rate, "MiB": arm.memory}
    return {head: value for head, value in every.items() if value is not None}
