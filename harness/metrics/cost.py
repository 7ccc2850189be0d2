"""What a configuration costs: parameters and operations counted, seconds and memory measured."""

import re
import resource
import sys
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from harness.codec import Codec
from harness.denoiser import Denoiser
from harness.guidance import Asked, guided
from harness.objective import Model, draw_samples, is_adaptive, own_time
from harness.records import Measurement
from harness.spec import DdpmObjective, RunConfig

UNIT_OF_NFE = "forward passes per image"

# A multiple of every codec's tile: no image of a tile is one that was repeated to fill it.
DECODED_TOGETHER = 32

# The convention of MFU: a backward pass is two forward passes' worth.
FORWARD_PASSES_PER_STEP = 3

# Dense bf16 products, as the makers' data sheets have them.  All words of the first entry that fits are in the name.
PEAK_TERAFLOPS = {
    ("A100",): 312.0,
    ("A800",): 312.0,
    ("A40",): 149.7,
    ("A10",): 125.0,
    ("L4",): 121.0,
    ("L40S",): 362.0,
    ("H100", "NVL"): 835.0,
    ("H100", "PCIe"): 756.0,
    ("H100",): 989.0,
    ("H200", "NVL"): 835.0,
    ("H200",): 989.0,
    ("H800", "PCIe"): 756.0,
    ("H800",): 989.0,
    ("GH200",): 989.0,
    ("B200",): 2250.0,
}


@dataclass(frozen=True)
class Size:
    """Counted, not measured.  `flops` are 2 x the multiply-adds of one conditional forward pass at batch 1.

    `flops_against` are those of what guidance subtracts, a guide's or the same; `flops_without_registers` those of what
    register guidance subtracts.
    """

    parameters: int
    trainable_parameters: int
    buffers: int
    flops: int
    flops_against: int
    flops_without_registers: int


@dataclass(frozen=True)
class Passes:
    """Forward passes for one image: with the class, against it or by a guide, and without registers."""

    conditional: int
    against: int
    without_registers: int

    @property
    def total(self) -> int:
        """NFE."""
        return self.conditional + self.against + self.without_registers

    def flops(self, size: Size) -> int:
        """The operations of all of them."""
        return (
            self.conditional * size.flops
            + self.against * size.flops_against
            + self.without_registers * size.flops_without_registers
        )


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
    flops: int = counter.get_total_flops()
    total, trained = sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained)
    kept = sum(value.numel() for value in denoiser.state_dict().values()) - total
    return Size(total, trained, kept, flops, flops_against=flops, flops_without_registers=flops)


def evaluations(config: RunConfig) -> int | None:
    """Forward passes for one image, guidance of every kind included; None where the solver decides by its error."""
    counted = passes(config)
    return None if counted is None else counted.total


def passes(config: RunConfig) -> Passes | None:
    """Forward passes for one image by their kind; None where the solver decides by its error.

    Counted by sampling, with a network that does nothing.
    """
    if is_adaptive(config.sampler):
        return None
    calls: Counter[str] = Counter()
    learned = isinstance(config.objective, DdpmObjective) and config.objective.variance == "learned_range"

    def counted(kind: str) -> Model:
        def ask(x: Tensor, _t_N: Tensor) -> Tensor:
            calls[kind] += 1
            return torch.zeros_like(torch.cat([x, x], dim=1) if learned else x)

        return ask

    asked = Asked(counted("conditional"), counted("against"), counted("without registers"))
    model = guided(asked, config.protocol.guidance, config.registers.guidance, own_time(config), 1)
    draw_samples(config, model, torch.zeros(1, 1, 1, 1), lambda: torch.zeros(1, 1, 1, 1))
    return Passes(calls["conditional"], calls["against"], calls["without registers"])


def measurements(config: RunConfig, size: Size) -> list[Measurement]:
    """The counted costs as Measurements; those of a whole image only where they do not depend on the solver."""
    counted = [
        ("parameters", size.parameters, "parameters"),
        ("trainable_parameters", size.trainable_parameters, "parameters"),
        ("gflops", size.flops / 1e9, "GFLOP per forward pass, batch 1, 2 x multiply-adds"),
    ]
    asked = passes(config)
    if asked is not None:
        counted.append(("nfe", asked.total, UNIT_OF_NFE))
        counted.append(("gflops_per_image", asked.flops(size) / 1e9, "GFLOP for all forward passes of an image"))
    return [Measurement(name=name, value=value, unit=unit, better="lower") for name, value, unit in counted]


def decoding(config: RunConfig, codec: Codec) -> list[Measurement]:
    """The operations that make an image of its latent; nothing where no network does that.

    Counted on tensors without values, wherever the network is.
    """
    if codec.weights_sha256 is None:
        return []
    channels, side = config.latents.shape(config.task)
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter, torch.no_grad():
        codec.decode(torch.empty(DECODED_TOGETHER, channels, side, side, device=codec.device))
    gflops = counter.get_total_flops() / DECODED_TOGETHER / 1e9
    return [Measurement(name="decoder_gflops", value=gflops, unit="GFLOP per image, 2 x multiply-adds", better="lower")]


def throughput(config: RunConfig, seconds: float) -> Measurement:
    """Training images per second over a whole training that took so long: reading and checkpoints included."""
    images = config.training_steps * config.recipe.batch_size
    return Measurement(
        name="training_images_per_second", value=images / seconds, unit="images/s of wall clock", better="higher"
    )


def utilisation(size: Size, images_per_second: float, device_name: str) -> list[Measurement]:
    """MFU: 3 x the forward operations of all images, over the device's dense bf16 peak, whatever the precision.

    Nothing on a device whose peak is not known here, as on every CPU.
    """
    peak = peak_teraflops(device_name)
    if peak is None:
        return []
    share = FORWARD_PASSES_PER_STEP * size.flops * images_per_second / (peak * 1e12)
    unit = f"of {peak:g} TFLOP/s (dense bf16), 3 x forward operations"
    return [Measurement(name="mfu", value=share, unit=unit, better="higher")]


def peak_teraflops(device_name: str) -> float | None:
    """The dense bf16 peak of a GPU, by the name that CUDA gives it; None for a part of one (MIG) and others."""
    words = set(re.split(r"[\s-]+", device_name))
    if "MIG" in words:
        return None
    return next((peak for wanted, peak in PEAK_TERAFLOPS.items() if words.issuperset(wanted)), None)


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
