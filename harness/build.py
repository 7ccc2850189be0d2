"""Put a network and its registers together, as one RunConfig says."""

from pathlib import Path

import torch

import dsr
from harness import registry
from harness.denoiser import Denoiser
from harness.metrics import cost
from harness.spec import RunConfig
from harness.weights import fitted, read_official


def build(config: RunConfig) -> Denoiser:
    """A fresh denoiser on the CPU.

    The network is made before its registers, from the run's seed, so that arms which differ in registers alone start
    from the same weights.
    """
    torch.manual_seed(config.seed)
    denoiser = registry.find(config.backbone).build(config.network)
    dsr.attach(config.registers, denoiser)
    return denoiser


def check_weights(config: RunConfig, path: Path) -> None:
    """Raise UserError unless an official file fits this network key by key; no weight is made."""
    with torch.device("meta"):
        denoiser = build(config)
    fitted(denoiser, read_official(path), dsr.official_names(config.registers))


def size_of(config: RunConfig) -> cost.Size:
    """Parameters and operations, without making a weight."""
    with torch.device("meta"):
        denoiser = build(config)
    return cost.count(denoiser, config.network["in_channels"], config.network["input_size"])
