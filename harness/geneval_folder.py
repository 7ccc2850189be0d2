"""A folder of images made for prompts, as GenEval's official tool lays it out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from harness.files import sweep_parts, write_text, write_whole
from harness.metrics.geneval.official_prompts import lines
from harness.metrics.geneval.prompt import Prompt
from harness.prompted_images import METADATA, SAMPLES, file_of, folder_of


@dataclass(frozen=True)
class ImageFolder:
    """`{prompt:05d}/metadata.jsonl`, and beside it `samples/{image:04d}.png`."""

    place: Path

    def metadata(self, prompt: int) -> Path:
        """What is asked of a prompt's images."""
        return self.place / folder_of(prompt) / METADATA

    def image(self, prompt: int, image: int) -> Path:
        """One image of a prompt."""
        return self.place / folder_of(prompt) / SAMPLES / file_of(image)

    def missing(self, prompts: int, images: int) -> dict[int, list[int]]:
        """By prompt, those of its images that are not there."""
        return {
            prompt: [image for image in range(images) if not self.image(prompt, image).exists()]
            for prompt in range(prompts)
        }

    def is_whole(self, prompts: int, images: int) -> bool:
        """Whether every image is there."""
        return not any(self.missing(prompts, images).values())

    def keep(self, prompt: int, image: int, made: Image.Image) -> None:
        """Write an image whole, unless it is there."""
        path = self.image(prompt, image)
        if not path.exists():
            write_whole(path, lambda part: made.save(part, format="PNG"))


def describe(prompts: Sequence[Prompt], folder: ImageFolder) -> None:
    """Write what is asked of every prompt's images, before there are any; what a kill left half written is swept up."""
    for number, prompt in enumerate(prompts):
        path = folder.metadata(number)
        sweep_parts(path.parent)
        sweep_parts(path.parent / SAMPLES)
        if not path.exists():
            write_text(path, lines([prompt]))
