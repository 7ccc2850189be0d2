"""What registers cost in time: a training step and a forward pass with and without them, against their operations."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.bench import CPU, Ratio, forward_pass, in_turns, ratio_of, training_step
from harness.bench_records import BenchCase
from harness.build import build, size_of
from harness.records import Measurement
from harness.registers import RegisterConfig
from harness.spec import RunConfig
from harness.text_table import columns


@dataclass(frozen=True)
class Overhead:
    """One backbone's overhead.  `*_over_operations` are ratios of ratios: 1 means that time grows as operations do."""

    config: RunConfig
    batch_size: int
    pairs: int
    operations: float
    gflops: float
    training_seconds: float
    sampling_seconds: float
    training: Ratio
    sampling: Ratio

    @property
    def registers(self) -> RegisterConfig:
        return self.config.registers

    @property
    def training_over_operations(self) -> Ratio:
        return self.training.over(self.operations)

    @property
    def sampling_over_operations(self) -> Ratio:
        return self.sampling.over(self.operations)

    def shown(self) -> dict[str, Any]:
        """For machines."""
        numbers = {name: value for name, value in vars(self).items() if name not in ("config", "training", "sampling")}
        ratios = ("training", "sampling", "training_over_operations", "sampling_over_operations")
        return {
            "backbone": self.config.exact_name,
            "registers": self.registers.preset,
            **numbers,
            **{name: asdict(getattr(self, name)) for name in ratios},
        }

    def case(self) -> BenchCase:
        """For a record."""
        ratios = {
            "operations_over_none": self.operations,
            "training_step_over_none": self.training.median,
            "forward_pass_over_none": self.sampling.median,
        }
        seconds = {"training_step_of_none": self.training_seconds, "forward_pass_of_none": self.sampling_seconds}
        return BenchCase(
            title=f"{self.config.exact_name}, registers {self.registers.preset}, over none",
            backbone=self.config.exact_name,
            network=self.config.network,
            registers=self.registers,
            batch=self.batch_size,
            compiled=False,
            precision=CPU.precision,
            gflops=self.gflops,
            measurements=(
                *(Measurement(name=name, value=value, unit="ratio", better="lower") for name, value in ratios.items()),
                *(Measurement(name=name, value=value, unit="s", better="lower") for name, value in seconds.items()),
            ),
        )


def overhead(config: RunConfig, batch_size: int, pairs: int) -> Overhead:
    """Time a run's network with its registers and without, in one process, in turns, the order changing each time.

    Random data, float32 on the CPU, the recipe's optimizer and EMA; the seconds are those without registers.
    """
    torch.set_num_threads(config.execution.threads)
    arms = [config.without_registers(), config]
    plain, ours = (size_of(arm).flops for arm in arms)
    training = in_turns([training_step(arm, batch_size, CPU) for arm in arms], pairs, f"{config.exact_name} training")
    forward = [forward_pass(arm, build(arm), batch_size, CPU) for arm in arms]
    sampling = in_turns(forward, pairs, f"{config.exact_name} sampling")
    return Overhead(
        config=config,
        batch_size=batch_size,
        pairs=pairs,
        operations=ours / plain,
        gflops=ours / 1e9,
        training_seconds=statistics.median(seconds for seconds, _ in training),
        sampling_seconds=statistics.median(seconds for seconds, _ in sampling),
        training=ratio_of(training),
        sampling=ratio_of(sampling),
    )


def report(found: Sequence[Overhead]) -> str:
    """A line for each backbone."""
    head = ["backbone", "registers", "batch", "GFLOP ratio", "training step", "over GFLOPs", "forward", "over GFLOPs"]
    rows = [
        [
            each.config.exact_name,
            each.registers.preset,
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
