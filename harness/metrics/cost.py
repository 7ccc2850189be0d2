"""What a configuration costs: parameters and operations counted, seconds and memory measured."""

import resource
import sys
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.denoiser import Denoiser
from harness.records import Measurement
from harness.respacing import NUM_STEPS, kept_steps
from harness.spec import DdimSampler, DdpmSampler, OdeSampler, RunConfig, Sampler, SdeSampler

UNIT_OF_NFE = "forward passes per image"
EVALUATIONS_PER_STEP = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4}


@dataclass(frozen=True)
class Size:
    """Counted, not measured.  `flops` are 2 x the multiply-adds of one conditional forward pass at batch 1."""

    parameters: int
    trainable_parameters: int
    flops: int


def count(denoiser: Denoiser, channels: int, image_size: int) -> Size:
    """Count a denoiser that was built on the meta device.

    Matrix products, convolutions and attention count; norms and element-wise operations do not.  Parameters include
    fixed position tables, as the official code counts them.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        x = torch.empty(1, channels, image_size, image_size)
        denoiser.eval()(x, torch.empty(1), torch.empty(1, dtype=torch.long))
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in denoiser.parameters()]
    return Size(sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained), counter.get_total_flops())


def evaluations(sampler: Sampler) -> int | None:
    """How often a sampler asks its model, for one image and before guidance; None where the solver decides."""
    match sampler:
        case OdeSampler():
            per_step = EVALUATIONS_PER_STEP.get(sampler.method)
            return per_step and per_step * (sampler.points - 1)
        case SdeSampler():
            drift = 2 * (sampler.points - 1) * (1 if sampler.method == "euler" else 2)
            last = {"none": 0, "mean": 2, "euler": 1, "tweedie": 1}
            return drift + last[sampler.last_step]
        case DdpmSampler() | DdimSampler():
            return len(kept_steps(sampler.respacing, NUM_STEPS))


def measurements(config: RunConfig, size: Size) -> list[Measurement]:
    """The counted costs as Measurements; forward passes only where they do not depend on the solver or an interval."""
    counted = [
        ("parameters", size.parameters, "parameters"),
        ("trainable_parameters", size.trainable_parameters, "parameters"),
        ("gflops", size.flops / 1e9, "GFLOP per forward pass, batch 1, 2 x multiply-adds"),
    ]
    asked = evaluations(config.sampler)
    is_partly_guided = config.protocol.guidance.scale != 1.0 and config.protocol.guidance.interval != (0.0, 1.0)
    if asked is not None and not is_partly_guided:
        counted.append(("nfe", asked * (1 if config.protocol.guidance.scale == 1.0 else 2), UNIT_OF_NFE))
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
