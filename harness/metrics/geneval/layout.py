"""A folder in GenEval's official layout, looked through before anything is judged: whole and sound, or refused."""

# n images of a prompt, H height, W width

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from harness.errors import UserError, disk_error, first_few
from harness.evaluation_records import ImageSet
from harness.image_folders import UNREADABLE
from harness.image_sets import DIGEST_BYTES, Digests, image_digests, set_digest
from harness.images import Pixels
from harness.metrics.geneval.official_prompts import parse_prompt
from harness.metrics.geneval.prompt import Prompt
from harness.progress import Progress
from harness.prompted_images import METADATA, SAMPLES, file_of, folder_of, is_file, is_folder

OFFICIAL_IMAGES: Final = 4

_FIRST: Final = f"{folder_of(0)}/{METADATA} and {folder_of(0)}/{SAMPLES}/{file_of(0)} ..."
_LAYOUT: Final = f"{_FIRST} for each prompt"
# What has no more than 8 bits: how to scale others is for whoever made them to decide.
_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")
_LONGEST_METADATA: Final = 2**16
_SHOWN: Final = 5


@dataclass(frozen=True)
class PromptImages:
    """A prompt, the files of its images in their order, and the digests of their pixels (n, 32)."""

    prompt: Prompt
    paths: tuple[Path, ...]
    digests: Digests = field(repr=False)


@dataclass(frozen=True)
class Gallery:
    """What one pass over a folder found: each prompt with its images, and what a record says of all images."""

    place: Path
    images: ImageSet
    prompts: tuple[PromptImages, ...]
    notes: tuple[str, ...]

    @property
    def images_per_prompt(self) -> int:
        """As many as any prompt has."""
        return len(self.prompts[0].paths)


def look_through(place: Path) -> Gallery:
    """Read every prompt and every image of `place/{index:05d}/metadata.jsonl` and `samples/{k:04d}.png`.

    Other files are passed over.  Raises one UserError that names whatever is missing, unreadable, or not like the rest:
    an image that is not there must never count as one that is wrong.
    """
    faults = _Faults(place)
    folders, notes = _folders(place, faults)
    listed = [(_prompt_in(folder, faults), _samples_in(folder, faults)) for folder in folders]
    most = max((len(paths) for _, paths in listed), default=0)
    for folder, (_, paths) in zip(folders, listed, strict=True):
        if 0 < len(paths) < most:
            faults.add(f"prompts with fewer than {most} images", folder / SAMPLES, f"{len(paths)}")
    seen = _Seen()
    with Progress("looking through images", sum(len(paths) for _, paths in listed)) as progress:
        for _, paths in listed:
            for path in paths:
                seen.look(path, faults)
                progress.advance(1)
    seen.require_one_size(faults)
    faults.refuse()
    prompts = [PromptImages(prompt, paths, seen.of(paths)) for prompt, paths in listed if prompt is not None]
    return Gallery(place, seen.image_set(place), tuple(prompts), (*notes, *_about(most), *seen.about()))


def read_images(each: PromptImages) -> list[Image.Image]:
    """The images of a prompt, as they were when they were looked through.  Raises UserError where one is not."""
    images = []
    for path, digest_D in zip(each.paths, each.digests, strict=True):
        try:
            image = _read(path)
            is_same = np.array_equal(_digest(image), digest_D)
        except UNREADABLE:
            is_same = False
        if not is_same:
            raise UserError(f"{path} changed while it was evaluated", "run it again when the images are still")
        images.append(image)
    return images


def require_folder(place: Path) -> None:
    """Raise UserError where there is no folder at all."""
    if not place.is_dir():
        what = "is a file, not a folder" if place.exists() else "does not exist"
        raise UserError(f"{place} {what}", f"give a folder that holds {_FIRST}")


@dataclass
class _Faults:
    """What is wrong with a folder, by kind, each with the places where it is."""

    place: Path
    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, path: Path, detail: str = "") -> None:
        name = str(path.relative_to(self.place))
        self.found.setdefault(kind, []).append(f"{name}: {detail}" if detail else name)

    def refuse(self) -> None:
        """Raise UserError where there are any."""
        if not self.found:
            return
        told = [f"{len(names):,} {kind} ({first_few(names, _SHOWN)})" for kind, names in self.found.items()]
        raise UserError(
            f"{self.place} is not whole: {'; '.join(told)}",
            f"make what is missing or broken again; the layout is {_LAYOUT}. Nothing was scored: a missing image must "
            "not count as a wrong one",
        )


def _folders(place: Path, faults: _Faults) -> tuple[list[Path], list[str]]:
    """Those of prompts in their order, and a note on folders that are none."""
    require_folder(place)
    try:
        names = sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise disk_error(place, error) from error
    numbered = [name for name in names if name.isascii() and name.isdigit()]
    if not numbered:
        raise UserError(f"{place} holds no folders of prompts", f"give a folder of the layout {_LAYOUT}")
    prompts = [name for name in numbered if is_folder(name)]
    for name in sorted(set(numbered).difference(prompts)):
        faults.add("folders whose name is not a number of five digits", place / name)
    for index in range(1 + max(map(int, prompts), default=-1)):
        if folder_of(index) not in prompts:
            faults.add("missing folders of prompts", place / folder_of(index))
    others = [name for name in names if name not in numbered]
    notes = [f"{len(others):,} other folders were passed over: {first_few(others, _SHOWN)}"] * bool(others)
    return [place / name for name in prompts], notes


def _prompt_in(folder: Path, faults: _Faults) -> Prompt | None:
    path = folder / METADATA
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_METADATA)
        return parse_prompt(content.decode())
    except (FileNotFoundError, NotADirectoryError):
        faults.add(f"prompts without {METADATA}", folder)
    except UnicodeDecodeError:
        faults.add(f"files {METADATA} that hold no prompt", path, "no text")
    except UserError as error:
        faults.add(f"files {METADATA} that hold no prompt", path, error.problem)
    except OSError as error:
        raise disk_error(path, error) from error
    return None


def _samples_in(folder: Path, faults: _Faults) -> tuple[Path, ...]:
    """The images of a prompt in the order of their numbers, which must be 0, 1, 2 ..."""
    samples = folder / SAMPLES
    try:
        found = sorted(path for path in samples.iterdir() if is_file(path.name))
    except (FileNotFoundError, NotADirectoryError):
        found = []
    except OSError as error:
        raise disk_error(samples, error) from error
    if not found:
        faults.add("prompts without images", samples)
    by_number = {int(path.stem): path for path in found}
    if len(by_number) < len(found):
        faults.add("prompts with several images of one number", samples)
    for number in range(len(by_number)):
        if number not in by_number:
            faults.add("missing images", samples / file_of(number))
    return tuple(by_number[number] for number in sorted(by_number))


@dataclass
class _Seen:
    """What one pass over the images found."""

    digests: dict[Path, Digests] = field(default_factory=dict)
    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)
    least: int = 255
    greatest: int = 0

    def look(self, path: Path, faults: _Faults) -> None:
        try:
            image = _read(path)
        except UNREADABLE:
            faults.add("unreadable images", path)
            return
        pixels = np.asarray(image)
        self.sizes[path] = image.size
        self.digests[path] = _digest(image)
        self.least, self.greatest = min(self.least, int(pixels.min())), max(self.greatest, int(pixels.max()))

    def require_one_size(self, faults: _Faults) -> None:
        usual = self._usual
        for path, (W, H) in self.sizes.items():
            if usual != (W, H):
                faults.add(f"images that are not of {usual[0]} x {usual[1]} as the others", path, f"{W} x {H}")

    def of(self, paths: Sequence[Path]) -> Digests:
        return np.stack([self.digests[path] for path in paths])

    def image_set(self, place: Path) -> ImageSet:
        W, H = self._usual
        return ImageSet(
            name=place.resolve().name,
            kind="folder",
            sha256=set_digest(self.of(list(self.digests))),
            num_images=len(self.digests),
            channels=3,
            height=H,
            width=W,
            least_pixel=self.least,
            greatest_pixel=self.greatest,
            duplicates=self._duplicates,
        )

    def about(self) -> Iterator[str]:
        if self._duplicates:
            yield f"{self._duplicates:,} of {len(self.digests):,} images equal an earlier one pixel by pixel"

    @property
    def _usual(self) -> tuple[int, int]:
        counted = Counter(self.sizes.values()).most_common(1)
        return counted[0][0] if counted else (0, 0)

    @property
    def _duplicates(self) -> int:
        return len(self.digests) - len({digest.tobytes() for digest in self.digests.values()})


def _about(images_per_prompt: int) -> Iterator[str]:
    if images_per_prompt != OFFICIAL_IMAGES:
        yield f"{images_per_prompt} images of each prompt, where GenEval has {OFFICIAL_IMAGES}"


def _read(path: Path) -> Image.Image:
    """An image in RGB, turned as its EXIF says.  Raises one of UNREADABLE."""
    with Image.open(path) as file:
        file.load()
        if file.mode not in _MODES:
            raise ValueError(f"an image of the mode {file.mode}")
        return ImageOps.exif_transpose(file).convert("RGB")


def _digest(image: Image.Image) -> Digests:
    """SHA-256 of the pixels, channel by channel, (32,)."""
    pixels_1CHW: Pixels = np.asarray(image).transpose(2, 0, 1)[None]
    return image_digests(pixels_1CHW).reshape(DIGEST_BYTES)
