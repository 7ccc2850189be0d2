"""Say what a configuration is, and what it costs, without training it."""

from typing import Any

from harness import registry
from harness.build import size_of
from harness.spec import RunConfig


def describe(config: RunConfig) -> dict[str, Any]:
    """Parameters, tokens and operations of a backbone with its registers, counted on the meta device.

    `parameters` counts fixed position tables, as the official code does; `gflops` is 2 x `gmacs`, of one conditional
    forward pass at batch 1; `tokens` is the longest sequence: patches and registers.
    """
    backbone, size = registry.find(config.backbone), size_of(config)
    denoiser = config.registers.denoiser
    network = backbone.size(config.size).model_validate(config.network)
    registers = denoiser.count if denoiser else 0
    return {
        "backbone": config.exact_name,
        "source": backbone.source,
        "registers": config.registers.model_dump(mode="json"),
        "input": [network.in_channels, network.input_size, network.input_size],
        "parameters": size.parameters,
        "trainable_parameters": size.trainable_parameters,
        "tokens": network.patch_tokens + registers,
        "patch_tokens": network.patch_tokens,
        "register_tokens": registers,
        "native_tokens": backbone.native_tokens,
        "gflops": size.flops / 1e9,
        "gmacs": size.flops / 2e9,
        "network": config.network,
    }
