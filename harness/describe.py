"""Say what a configuration is, and what it costs, without training it."""

from typing import Any

from harness import registry
from harness.comparability import conditions_of
from harness.spec import RunConfig


def shown_run(config: RunConfig) -> dict[str, Any]:
    """A resolved run as `--dry-run` shows it: all that it is, its id, its part of the comparability key, its epochs."""
    shown = config.model_dump(mode="json") | {
        "run_id": config.run_id,
        "training_steps": config.training_steps,
        "conditions": conditions_of(config).model_dump(mode="json"),
    }
    if config.task.num_training_images is not None:
        shown["epochs"] = config.training_steps * config.recipe.batch_size / config.task.num_training_images
    return shown


def describe(config: RunConfig) -> dict[str, Any]:
    """Parameters, tokens and operations of a backbone with its registers, counted on the meta device.

    `parameters` counts fixed position tables, as the official code does; `gflops` is 2 x `gmacs`, of one conditional
    forward pass at batch 1; `tokens` is the longest sequence: patches, registers, the network's own, and those of a
    prompt in context; `buffers` and `state_dict_entries` are those of the official checkpoint.
    """
    from harness.build import layout_of, size_of

    backbone, size, official = registry.backbone_of(config), size_of(config), layout_of(config)
    denoiser = config.registers.denoiser
    network = backbone.size(config.size).model_validate(config.network)
    registers = denoiser.count if denoiser else 0
    text = config.text.tokens if config.text else 0
    in_sequence = text if config.text and config.text.entry == "in-context" else 0
    return {
        "backbone": config.exact_name,
        "source": backbone.source,
        "registers": config.registers.model_dump(mode="json"),
        "input": [network.in_channels, network.input_size, network.input_size],
        "parameters": size.parameters,
        "trainable_parameters": size.trainable_parameters,
        "buffers": size.buffers + sum(table.numel() for table in official.derived.values()),
        "state_dict_entries": len(official.order),
        "tokens": network.patch_tokens + registers + network.native_tokens + in_sequence,
        "patch_tokens": network.patch_tokens,
        "register_tokens": registers,
        "native_tokens": network.native_tokens,
        "text_tokens": text,
        "gflops": size.flops / 1e9,
        "gmacs": size.flops / 2e9,
        "network": config.network,
    }
