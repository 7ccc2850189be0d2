"""What a configuration costs: parameters and operations counted, seconds and memory measured."""

import resource
import sys
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.denoiser import Denoiser
from harness.guidance import Asked, guided
from harness.objective import draw_samples, is_adaptive, own_time
from harness.records import Measurement
from harness.spec import DdpmObjective, RunConfig

UNIT_OF_NFE = "forward passes per image"


@dataclass(frozen=True)
class Size:
    """Counted, not measured.  `flops` are 2 x the multiply-adds of one conditional forward pass at batch 1."""

    parameters: int
    trainable_parameters: int
    buffers: int
    flops: int


def count(denoiser: Denoiser, channels: int, image_size: int) -> Size:
    """Count a denoiser that was built on the meta device.

    Matrix products, convolutions and attention count; norms and element-wise operations do not.  Parameters include
    fixed position tables, as the official code counts them.
    """
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in denoiser.parameters()]
    denoiser.requires_grad_(requires_grad=False)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        x = torch.empty(1, channels, image_size, image_size)
        denoiser.eval()(x, torch.empty(1), torch.empty(1, dtype=torch.long))
    total, trained = sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained)
    kept = sum(value.numel() for value in denoiser.state_dict().values()) - total
    return Size(total, trained, kept, counter.get_total_flops())


def evaluations(config: RunConfig) -> int | None:
    """Forward passes for one image, guidance of every kind included; None where the solver decides by its error.

    Counted by sampling, with a network that does nothing.
    """
    if is_adaptive(config.sampler):
        return None
    calls = 0
    learned = isinstance(config.objective, DdpmObjective) and config.objective.variance == "learned_range"

    def count(x: Tensor, _t_N: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros_like(torch.cat([x, x], dim=1) if learned else x)

    model = guided(Asked(count, count, count), config.protocol.guidance, config.registers.guidance, own_time(config), 1)
    draw_samples(config, model, torch.zeros(1, 1, 1, 1), lambda: torch.zeros(1, 1, 1, 1))
    return calls


def measurements(config: RunConfig, size: Size) -> list[Measurement]:
    """The counted costs as Measurements; forward passes only where they do not depend on the solver."""
    counted = [
        ("parameters", size.parameters, "parameters"),
        ("trainable_parameters", size.trainable_parameters, "parameters"),
        ("gflops", size.flops / 1e9, "GFLOP per forward pass, batch 1, 2 x multiply-adds"),
    ]
    asked = evaluations(config)
    if asked is not None:
        counted.append(("nfe", asked, UNIT_OF_NFE))
    return [Measurement(name=name, value=value, unit=unit, better="lower") for name, value, unit in counted]


def peak_memory(device: torch.device) -> Measurement:
    """The most memory held at once: by this run on a GPU; by this whole process, earlier runs included, on a CPU."""
    if device.type == "cuda":
        held, unit = torch.cuda.max_memory_allocated(device), "MiB allocated on the GPU"
    else:
        scale = 1 if sys.platform == "darwin" else 1024
        held, unit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, "MiB resident in the process so far"
    return Measurement(name="peak_memory", value=held / 2**20, unit=unit, better="lower")


def duration(name: str, seconds: float) -> Measurement:
    """Wall-clock seconds of one phase, all attempts together."""
    return Measurement(name=name, value=seconds, unit="s", better="lower")
