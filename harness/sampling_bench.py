"""Sampling throughput: whole images by a run's own sampler, register arms, eager and compiled, in turns."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from harness.bench import Action, Place, TimedArm, Timing, in_turns, ratio_of
from harness.bench_records import BenchCase
from harness.build import build, guide_config, size_of
from harness.executing import executed
from harness.latents import PixelCodec
from harness.metrics import cost
from harness.records import Measurement
from harness.sample import Sampled, sample
from harness.spec import PixelLatents, RunConfig
from harness.stopwatch import seconds_of
from harness.text_table import columns


@dataclass(frozen=True)
class Arm(TimedArm):
    """One arm's sampling of a batch.  `passes` are forward passes for an image, guidance of every kind included.

    They are None where an adaptive solver decides.  `ratio` is over the seconds of the first arm; `first_batch` are the
    seconds of the first batch, compilation included.
    """

    passes: int | None
    first_batch: float


@dataclass(frozen=True)
class SamplingSpeed:
    """All arms of a backbone on one device."""

    place: Place
    batch: int
    rounds: int
    arms: tuple[Arm, ...]

    def shown(self) -> dict[str, Any]:
        """For machines."""
        return {
            "device": self.place.name,
            "precision": self.place.precision,
            "batch": self.batch,
            "rounds": self.rounds,
            "arms": [self._arm_shown(arm) for arm in self.arms],
        }

    def cases(self) -> tuple[BenchCase, ...]:
        """For a record."""
        return tuple(arm.case(self.batch, self.place, _measurements(arm)) for arm in self.arms)

    def report(self) -> str:
        """A line for each arm."""
        head = ["arm", "img/s", "forward passes", "seconds over the first", "first batch"]
        rows = [
            [
                arm.title,
                str(arm.batch_seconds.per_second(self.batch)),
                _passes(arm),
                str(arm.ratio),
                f"{arm.first_batch:.3g} s",
            ]
            for arm in self.arms
        ]
        return (
            f"{columns([head, *rows])}\n{self.place.name}, {self.place.precision}, batch {self.batch}, no decoder\n"
            f"img/s: median (first to third quartile) of {self.rounds} rounds in turns"
        )

    def _arm_shown(self, arm: Arm) -> dict[str, Any]:
        return {
            "backbone": arm.config.exact_name,
            "registers": arm.config.registers.preset,
            "compiled": arm.compiled,
            "gflops": arm.gflops,
            "passes": arm.passes,
            "images_per_second": arm.batch_seconds.per_second(self.batch).model_dump(),
            "ratio": asdict(arm.ratio),
            "first_batch": arm.first_batch,
        }


def sampling_speed(configs: Sequence[RunConfig], modes: Sequence[bool], batch: int, rounds: int) -> SamplingSpeed:
    """Time a batch of every configuration, eager (False) and compiled (True) as `modes` say, in turns.

    As a run samples, in tiles on a CPU, but from random weights, and no decoder makes images of the latents.
    """
    place = Place.of(configs[0])
    torch.compiler.reset()
    device = str(place.device)
    arms = [executed(config, compiled=compiled, device=device) for config in configs for compiled in modes]
    prepared = [_sampling(arm, batch, place) for arm in arms]
    first = [seconds_of(action) for action in prepared]
    timed = in_turns(prepared, rounds, f"{configs[0].exact_name} sampling")
    found = [
        Arm(
            config=arm,
            compiled=arm.execution.compiled,
            gflops=size_of(arm).flops / 1e9,
            passes=cost.evaluations(arm),
            batch_seconds=Timing.of([seconds[index] for seconds in timed]),
            ratio=ratio_of(timed, of=index),
            first_batch=first[index],
        )
        for index, arm in enumerate(arms)
    ]
    return SamplingSpeed(place, batch, rounds, tuple(found))


def _sampling(config: RunConfig, batch: int, place: Place) -> Action:
    """What makes a batch of latents."""
    channels, side = config.latents.shape(config.task)
    seen = config.task.model_copy(update={"channels": channels, "image_size": side})
    config = config.model_copy(update={"latents": PixelLatents(), "task": seen})
    guide = guide_config(config)
    denoiser = build(config).to(place.device)
    made_from = Sampled(denoiser, PixelCodec(seen, place.device), build(guide).to(place.device) if guide else None)
    indices = np.arange(batch)

    def make() -> None:
        sample(config, made_from, indices, place.precision)
        place.wait()

    return make


def _passes(arm: Arm) -> str:
    return "adaptive" if arm.passes is None else str(arm.passes)


def _measurements(arm: Arm) -> tuple[Measurement, ...]:
    found = [
        Measurement(name="over_first_arm", value=arm.ratio.median, unit="ratio of seconds", better="lower"),
        Measurement(name="first_batch", value=arm.first_batch, unit="s, compilation included", better="lower"),
    ]
    if arm.passes is not None:
        found.append(Measurement(name="nfe", value=arm.passes, unit=cost.UNIT_OF_NFE, better="lower"))
    return tuple(found)
