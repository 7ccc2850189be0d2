"""Put a network and its registers together, as one RunConfig says."""

import torch

import dsr
from harness import registry
from harness.denoiser import Denoiser
from harness.metrics import cost
from harness.spec import RunConfig


def build(config: RunConfig) -> Denoiser:
    """A fresh denoiser on the CPU.

    The network is made before its registers, from the run's seed, so that arms which differ in registers alone start
    from the same weights.
    """
    torch.manual_seed(config.seed)
    denoiser = registry.find(config.backbone).build(config.network)
    dsr.attach(config.registers, denoiser)
    return denoiser


def size_of(config: RunConfig) -> cost.Size:
    """Parameters and operations, without making a weight."""
    with torch.device("meta"):
        denoiser = build(config)
    return cost.count(denoiser, config.network["in_channels"], config.network["input_size"])
