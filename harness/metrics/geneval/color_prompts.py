"""The texts with which CLIP is asked for the colour of an object (no torch)."""

from typing import Final

_TEMPLATES: Final = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)


def color_prompts(class_name: str, color: str) -> tuple[str, str, str]:
    """The official three texts for a class in a colour; a colour stands for the mean of their embeddings."""
    first, second, third = (template.format(color=color, name=class_name) for template in _TEMPLATES)
    return first, second, third
