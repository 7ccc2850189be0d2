"""What was decided of each image, and on what grounds: enough to decide it again without the image (no torch)."""

from pydantic import Field

from harness.frozen import Frozen
from harness.metrics.geneval.prompt import Prompt

# x1, y1, x2, y2 in pixels, confidence, and the colour where that was asked for.
FoundObject = tuple[float, float, float, float, float, str | None]


class ImageVerdict(Frozen):
    """One image: whether it is right, and if not why, in the official words, one reason a line.

    `found` are the objects that were kept, by class, most confident first: those of the classes that the prompt names.
    """

    correct: bool
    reason: str = ""
    found: dict[str, tuple[FoundObject, ...]] = Field(default_factory=dict)


class PromptVerdicts(Frozen):
    """All images of a prompt, in their order."""

    prompt: Prompt
    images: tuple[ImageVerdict, ...]
