"""What there is to choose from: backbones, register presets, tasks, encoders, extractors, metrics (no torch)."""

from typing import Any

import dsr
from dsr import neurons
from harness import extractors, registry, tasks
from harness.encoders import ENCODERS
from harness.metric_definitions import all_definitions, definitions_of


def list_backbones() -> list[dict[str, Any]]:
    """Each family with its sizes."""
    return [
        {
            "name": backbone.name,
            "title": backbone.title,
            "sizes": list(backbone.sizes),
            "objective": backbone.objective(next(iter(backbone.sizes.values()))).kind,
            "latents": backbone.latents.kind,
            "native_tokens": {name: size.native_tokens for name, size in backbone.sizes.items()},
            "source": backbone.source,
        }
        for backbone in map(registry.find, registry.families())
    ]


def list_registers() -> list[dict[str, Any]]:
    """Each preset with its source and the stages of DSR that it has."""
    return [
        {"name": name, "title": preset.title, "source": preset.source, "stages": list(preset.stages)}
        for name, preset in dsr.PRESETS.items()
    ]


def list_tasks() -> list[dict[str, Any]]:
    """Each task with the size it recommends."""
    return [{"name": name, "size": task.size, "title": task.title} for name, task in tasks.TASKS.items()]


def list_neurons() -> list[dict[str, Any]]:
    """Every list of register neurons that comes with the project."""
    return [found.model_dump(mode="json") | {"count": found.count} for found in neurons.shipped()]


def list_extractors() -> list[dict[str, Any]]:
    """Every named feature extractor, with what is measured in its features."""
    return [
        {"name": name, "title": extractors.find(name).title, "metrics": [each.name for each in definitions_of(name)]}
        for name in extractors.names()
    ]


def list_metrics() -> list[dict[str, Any]]:
    """Every number that an evaluation can give, with its unit, its direction and what it needs."""
    return [
        {
            "name": each.name,
            "title": each.title,
            "unit": each.unit,
            "better": each.better,
            "needs": list(each.needs),
            "version": each.version,
        }
        for each in all_definitions()
    ]


def list_encoders() -> list[dict[str, Any]]:
    """Every named encoder: where its weights are published, its trained registers, its lists of register neurons."""
    lists = neurons.shipped()
    return [
        {
            "name": encoder.name,
            "title": encoder.title,
            "hub": encoder.hub,
            "timm": encoder.timm,
            "trained_registers": encoder.registers,
            "neuron_lists": [found.name for found in lists if found.encoder == encoder.name],
        }
        for encoder in ENCODERS.values()
    ]
