"""What a configuration costs on this machine: forward passes and training steps timed, images per second, memory."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.bench import Place, Timing, forward_pass, repeated, training_step
from harness.bench_records import BenchCase
from harness.build import build, guide_config, size_of
from harness.metrics import cost as counted
from harness.records import Measurement
from harness.spec import RunConfig
from harness.text_table import columns


@dataclass(frozen=True)
class Sampling:
    """All forward passes of an image, guidance and its guide included; neither solver's arithmetic nor a decoder.

    `seconds_per_image` is at batch 1, `images_per_second` at the throughput batch: medians of passes, added up.
    """

    nfe: int
    gflops_per_image: float
    seconds_per_image: float
    images_per_second: float


@dataclass(frozen=True)
class Cost:
    """Operations, time and memory of one configuration; None where something is not known here.

    `latency` is a forward pass at batch 1, `forward` one at `batch`; `sampling` is None where an adaptive solver
    decides how many there are.  `mfu` is that of training.  Memory, in MiB, is the most that was allocated on a GPU;
    a CPU's process has no such number for one configuration.
    """

    config: RunConfig
    device: str
    precision: str
    batch: int
    repeats: int
    gflops: float
    latency: Timing
    forward: Timing
    sampling: Sampling | None
    training_step: Timing
    trained_per_second: float
    mfu: float | None
    sampling_memory: float | None
    training_memory: float | None

    def shown(self) -> dict[str, Any]:
        """For machines."""
        numbers = {name: value for name, value in asdict(self).items() if name != "config"}
        return {"backbone": self.config.exact_name, "registers": self.config.registers.preset, **numbers}

    def case(self) -> BenchCase:
        """For a record."""
        seconds = {"forward_pass_batch_1": self.latency.median, "forward_pass": self.forward.median}
        if self.sampling is not None:
            seconds["sampling_batch_1"] = self.sampling.seconds_per_image
        return BenchCase(
            title=f"{self.config.exact_name}, registers {self.config.registers.preset}",
            backbone=self.config.exact_name,
            network=self.config.network,
            registers=self.config.registers,
            batch=self.batch,
            compiled=False,
            precision=self.precision,
            gflops=self.gflops,
            images_per_second=self.training_step.per_second(self.batch),
            measurements=(
                *(Measurement(name=name, value=value, unit="s", better="lower") for name, value in seconds.items()),
                *self._known(),
            ),
        )

    def _known(self) -> Iterator[Measurement]:
        if self.sampling is not None:
            sampled = self.sampling.images_per_second
            yield Measurement(name="sampling_images_per_second", value=sampled, unit="images/s", better="higher")
        if self.mfu is not None:
            yield Measurement(name="mfu", value=self.mfu, unit="of the dense bf16 peak", better="higher")
        for name in ("sampling_memory", "training_memory"):
            value = getattr(self, name)
            if value is not None:
                yield Measurement(name=name, value=value, unit="MiB on the GPU", better="lower")

    def report(self) -> str:
        """For a person: what was counted, then what was timed."""
        rows = [
            ["GFLOP per forward pass", f"{self.gflops:.4g}"],
            ["forward pass, batch 1", str(self.latency)],
            [f"forward pass, batch {self.batch}", str(self.forward)],
            *self._sampling_rows(),
            [f"training step, batch {self.batch}", str(self.training_step)],
            ["images trained per second", f"{self.trained_per_second:.4g}"],
        ]
        measured = {
            "MFU of training": self.mfu,
            "peak memory, sampling (MiB)": self.sampling_memory,
            "peak memory, training (MiB)": self.training_memory,
        }
        rows += [[name, f"{value:.4g}"] for name, value in measured.items() if value is not None]
        head = f"{self.config.exact_name}, registers {self.config.registers.preset}: {self.device}, {self.precision}"
        return f"{head}\n{columns(rows)}\nmedian (first to third quartile) of {self.repeats}, after a warm-up"

    def _sampling_rows(self) -> list[list[str]]:
        if self.sampling is None:
            return [["forward passes per image", "as many as the adaptive solver takes"]]
        return [
            ["forward passes per image", str(self.sampling.nfe)],
            ["GFLOP per image", f"{self.sampling.gflops_per_image:.4g}"],
            ["seconds per image, batch 1", f"{self.sampling.seconds_per_image:.4g}"],
            [f"images sampled per second, batch {self.batch}", f"{self.sampling.images_per_second:.4g}"],
        ]


def cost(config: RunConfig, batch: int, repeats: int) -> Cost:
    """Count a configuration's operations, and time it: random weights and data, which do not change the time.

    bf16 on a GPU and float32 on a CPU, where the recipe leaves that open.  Run it on an idle machine.
    """
    place = Place.of(config)
    size, passes = size_of(config), counted.passes(config)
    one, many = (_forward(config, passes, images, place, repeats) for images in (1, batch))
    sampling_memory = _peak_memory(place.device)
    step = Timing.of(repeated(training_step(config, batch, place), repeats, f"{config.exact_name} training"))
    trained_per_second = batch / step.median
    used = counted.utilisation(size, trained_per_second, place.name)
    return Cost(
        config=config,
        device=place.name,
        precision=place.precision,
        batch=batch,
        repeats=repeats,
        gflops=size.flops / 1e9,
        latency=one["conditional"],
        forward=many["conditional"],
        sampling=None if passes is None else _sampling(passes, size, (one, many), batch),
        training_step=step,
        trained_per_second=trained_per_second,
        mfu=used[0].value if used else None,
        sampling_memory=sampling_memory,
        training_memory=_peak_memory(place.device),
    )


def _forward(
    config: RunConfig, passes: counted.Passes | None, batch: int, place: Place, repeats: int
) -> dict[str, Timing]:
    """Each kind of forward pass that sampling makes, by the name that Passes has for it."""
    denoiser, guide = build(config), guide_config(config)
    actions = {"conditional": forward_pass(config, denoiser, batch, place)}
    if passes is not None and passes.against:
        actions["against"] = forward_pass(guide or config, build(guide) if guide else denoiser, batch, place)
    if passes is not None and passes.without_registers:
        actions["without_registers"] = forward_pass(config, denoiser, batch, place, with_registers=False)
    title = f"{config.exact_name} forward, batch {batch}"
    return {kind: Timing.of(repeated(action, repeats, title)) for kind, action in actions.items()}


def _sampling(
    passes: counted.Passes, size: counted.Size, timed: tuple[dict[str, Timing], dict[str, Timing]], batch: int
) -> Sampling:
    times = asdict(passes)
    one, many = (sum(times[kind] * timing.median for kind, timing in kinds.items()) for kinds in timed)
    return Sampling(passes.total, passes.flops(size) / 1e9, seconds_per_image=one, images_per_second=batch / many)


def _peak_memory(device: torch.device) -> float | None:
    """Since the last time that this was asked."""
    if device.type != "cuda":
        return None
    most = counted.peak_memory(device).value
    torch.cuda.reset_peak_memory_stats(device)
    return most
