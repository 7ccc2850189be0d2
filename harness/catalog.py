"""What there is to choose from: backbones, register presets, tasks (no torch)."""

from typing import Any

import dsr
from harness import registry, tasks


def list_backbones() -> list[dict[str, Any]]:
    """Each family with its sizes."""
    return [
        {
            "name": backbone.name,
            "title": backbone.title,
            "sizes": list(backbone.sizes),
            "objective": backbone.objective.kind,
            "latents": backbone.latents,
            "native_tokens": backbone.native_tokens,
            "source": backbone.source,
        }
        for backbone in map(registry.find, registry.families())
    ]


def list_registers() -> list[dict[str, Any]]:
    """Each preset with its stages."""
    presets = dsr.PRESETS.items()
    return [{"name": name, "stages": list(preset.stages), "title": preset.title} for name, preset in presets]


def list_tasks() -> list[dict[str, Any]]:
    """Each task with the size it recommends."""
    return [{"name": name, "size": task.size, "title": task.title} for name, task in tasks.TASKS.items()]
