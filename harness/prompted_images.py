"""GenEval's layout of a folder, and which files of one are images of prompts (no torch)."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError

METADATA, SAMPLES = "metadata.jsonl", "samples"
# What that tool writes beside them for people to look at.
GRID = "grid.png"

_FOLDER = re.compile(r"[0-9]{5}")
_IMAGE = re.compile(r"[0-9]+\.png")


def folder_of(prompt: int) -> str:
    """The name of a prompt's folder: 00000."""
    return f"{prompt:05d}"


def file_of(image: int) -> str:
    """The name of an image of a prompt within SAMPLES: 0000.png."""
    return f"{image:04d}.png"


def is_folder(name: str) -> bool:
    """Whether that is the name of a prompt's folder."""
    return _FOLDER.fullmatch(name) is not None


def is_file(name: str) -> bool:
    """Whether that is the name of an image of a prompt, with any number of digits."""
    return _IMAGE.fullmatch(name) is not None


@dataclass(frozen=True)
class Listed:
    """The image files below a folder, and the files that are none; how many each prompt has, nothing elsewhere."""

    images: list[Path]
    others: list[Path]
    counts: tuple[int, ...] = ()

    @property
    def prompts(self) -> int:
        """How many prompts have images."""
        return sum(map(bool, self.counts))

    @property
    def notes(self) -> tuple[str, ...]:
        """In words, that these were taken for images of prompts, and whether each has as many."""
        if not self.counts:
            return ()
        told = [f"images of {self.prompts:,} prompts, in GenEval's layout: those in their folders `{SAMPLES}`"]
        if without := len(self.counts) - self.prompts:
            told.append(f"{without:,} of {len(self.counts):,} prompts have no image")
        some = [count for count in self.counts if count]
        if min(some) < max(some):
            told.append(f"not equally many images of each prompt: {min(some):,} to {max(some):,}")
        return tuple(told)


def by_prompts(place: Path, listed: Listed) -> Listed:
    """Of a folder in GenEval's layout its samples alone, `00000/samples/0000.png` and the like; any other as it is.

    It is one where a folder `00000` and the like holds `metadata.jsonl`.  Raises UserError for one without samples.
    """
    folders = {each for each in place.iterdir() if is_folder(each.name) and (each / METADATA).is_file()}
    if not folders:
        return listed
    samples = [file for file in listed.images if file.parent.parent in folders and _is_sample(file)]
    if not samples:
        raise UserError(
            f"{place} holds {len(folders):,} prompts, and no image of any",
            f"put them where GenEval's tool expects them: {sorted(folders)[0] / SAMPLES / '0000.png'} ...",
        )
    taken = set(samples)
    passed_over = [file for file in (*listed.images, *listed.others) if file not in taken]
    others = [file for file in passed_over if file.name not in (METADATA, GRID)]
    counted = Counter(sample.parent.parent for sample in samples)
    return Listed(samples, others, tuple(counted[folder] for folder in folders))


def _is_sample(file: Path) -> bool:
    return file.parent.name == SAMPLES and is_file(file.name)
