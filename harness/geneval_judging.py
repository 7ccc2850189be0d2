"""Judge images by GenEval's prompts with a detector and CLIP: from a folder to verdicts and shares."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import torch
from PIL import Image
from pydantic import ValidationError

from harness.comparability import Basis, ExtractorIdentity, GuidanceUsed, ReferenceIdentity
from harness.errors import UserError, disk_error, first_few
from harness.files import write_text
from harness.frozen import Frozen
from harness.judging import Setting
from harness.metric_definitions import GENEVAL, OFFICIAL_PROMPTS
from harness.metrics.clip import CLIP_L, open_clip
from harness.metrics.clip import KIND as CLIP
from harness.metrics.geneval.clip_colors import ColorNamer
from harness.metrics.geneval.detections import Detections
from harness.metrics.geneval.detector import KIND as DETECTOR
from harness.metrics.geneval.detector import MASK2FORMER, Detector, InputSize, open_detector
from harness.metrics.geneval.layout import Gallery, PromptImages, read_images
from harness.metrics.geneval.objects import OBJECTS
from harness.metrics.geneval.official_prompts import LINES_SHA256, prompts_sha256
from harness.metrics.geneval.prompt import COLORS, Prompt
from harness.metrics.geneval.rules import OFFICIAL, Options, decide
from harness.metrics.geneval.summary import summarise
from harness.metrics.geneval.values import measurements
from harness.metrics.geneval.verdicts import ImageVerdict, PromptVerdicts
from harness.metrics.judge_networks import NetworkKind, find_folder, require_kind
from harness.plain_files import reason_of
from harness.progress import Progress
from harness.records import Measurement

Kept = TypeVar("Kept", bound=Frozen)

NAME: Final = "mask2former+clip"
NOT_OFFICIAL: Final = (
    "the detector is not the official tool's (OpenMMLab's own training, and another way of resizing), and neither is "
    "the CLIP's precision: not comparable to the digit with published scores"
)

_DIGITS: Final = 12
_SHOWN: Final = 4


@dataclass(frozen=True)
class JudgeNames:
    """Which networks judge: hub ids, or folders in transformers' format; and how large the detector sees images."""

    detector: str = MASK2FORMER
    clip: str = CLIP_L
    size: InputSize = "official"


@dataclass(frozen=True)
class GenevalJudge:
    """A detector, a namer of colours, and the rules' options: what verdicts follow from, besides the images."""

    detector: Detector
    colors: ColorNamer
    options: Options

    @property
    def identity(self) -> ExtractorIdentity:
        """Both networks as one, whatever they are called here; `weights_sha256` is over both digests."""
        return ExtractorIdentity(
            name=NAME,
            version=f"{self.detector.version}; {self.colors.identity.version}",
            weights_sha256=hashlib.sha256("\n".join(self._digests).encode()).hexdigest(),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the judge: what its networks are called here, and that they are not official."""
        called = f"judged by the detector {self.detector.name} and the CLIP {self.colors.clip.name}"
        return called, NOT_OFFICIAL, *self.detector.notes

    @property
    def settings(self) -> str:
        """Both digests and the options, in words."""
        detector, clip = (
            each[:_DIGITS] for each in (self.detector.weights_sha256, self.colors.identity.weights_sha256)
        )
        return f"detector {detector}, clip {clip}, {self.options.words()}"

    def basis(self, prompts: Sequence[Prompt], guidance: GuidanceUsed) -> Basis:
        """What shares of images for these prompts rest on."""
        reference = ReferenceIdentity(name=_name_of(prompts), sha256=prompts_sha256(prompts))
        return Basis(extractor=self.identity, reference=reference, guidance=guidance, settings=self.settings)

    def judge(self, group: Sequence[PromptImages]) -> Iterator[PromptVerdicts]:
        """The verdicts on the images of some prompts, which are read together, one prompt after another.

        Raises UserError where an image is no longer what it was when it was looked through.
        """
        images = [read_images(each) for each in group]
        found = self.detector.detect([image for of_prompt in images for image in of_prompt])
        for each, of_prompt in zip(group, images, strict=True):
            verdicts = tuple(self._decide(each.prompt, image, next(found)) for image in of_prompt)
            yield PromptVerdicts(prompt=each.prompt, images=verdicts)

    @property
    def _digests(self) -> tuple[str, str]:
        return self.detector.weights_sha256, self.colors.identity.weights_sha256

    def _decide(self, prompt: Prompt, image: Image.Image, detections: Detections) -> ImageVerdict:
        def colors_of(class_name: str, rows: Sequence[int]) -> Sequence[str]:
            return self.colors.name(image, class_name, detections[class_name], rows)

        return decide(prompt, detections, colors_of, self.options)


@dataclass(frozen=True)
class Scored:
    """What was decided of each image, the shares that follow, and in words what a reader must know."""

    verdicts: list[PromptVerdicts]
    measurements: list[Measurement]
    notes: list[str]


def require_judge(names: JudgeNames) -> None:
    """Find both networks' folders, or have them fetched; no weights are read.

    Raises one UserError for both where they are neither here nor to be had, or are other models.
    """
    faults = list(filter(None, (_fault(names.detector, DETECTOR), _fault(names.clip, CLIP))))
    if faults:
        raise UserError(
            f"GenEval needs a detector and a CLIP: {'; '.join(faults)}",
            f"fetch {', '.join(DETECTOR.files)} of {names.detector} and {', '.join(CLIP.files)} of {names.clip} "
            "elsewhere, into a folder each, and say --detector DIR --clip DIR",
        )


def open_judge(names: JudgeNames, device: torch.device, options: Options = OFFICIAL) -> GenevalJudge:
    """Open the detector and CLIP.

    Raises UserError as `require_judge` does, and where one is damaged, or the GPU's memory is too small for it.
    """
    require_judge(names)
    least = min(options.threshold, options.counting_threshold)
    detector = open_detector(names.detector, device, size=names.size, least=least)
    return GenevalJudge(detector, ColorNamer(open_clip(names.clip, device)), options)


def score_gallery(gallery: Gallery, judge: GenevalJudge, folder: Path, guidance: GuidanceUsed) -> Scored:
    """Judge the images of a folder that was looked through; only one process may fill `folder`.

    What was decided is kept there prompt by prompt, so that an interrupted scoring goes on with the next one.
    """
    prompts = [each.prompt for each in gallery.prompts]
    require_known(prompts)
    verdicts = _all_verdicts(gallery, judge, folder)
    basis = judge.basis(prompts, guidance)
    notes = [*gallery.notes, *judge.notes, *_about(prompts)]
    return Scored(verdicts, measurements(summarise(verdicts), GENEVAL, basis), notes)


def digest_of(each: PromptImages, told: str) -> str:
    """Of all that a result follows from, so that none is ever taken for that on other images or of another judge."""
    return hashlib.sha256(f"{each.prompt.model_dump_json()}{told}".encode() + each.digests.tobytes()).hexdigest()[:24]


def read_kept(file: Path, kind: type[Kept]) -> Kept:
    """What was kept of a prompt's images.  Raises UserError where the file is damaged."""
    try:
        return kind.model_validate_json(file.read_bytes())
    except OSError as error:
        raise disk_error(file, error) from error
    except ValidationError as error:
        raise UserError(
            f"{file} is damaged: {reason_of(error)}", "delete it: the same command makes it again"
        ) from error


def _all_verdicts(gallery: Gallery, judge: GenevalJudge, folder: Path) -> list[PromptVerdicts]:
    """Those on all prompts, from their files, of which the missing ones are made."""
    told = json.dumps([judge.identity.model_dump(), judge.settings, Setting().provenance().code_sha256])
    files = [folder / f"{digest_of(each, told)}.json" for each in gallery.prompts]
    known = set(folder.iterdir())
    missing = [(each, file) for each, file in zip(gallery.prompts, files, strict=True) if file not in known]
    done = len(files) - len(missing)
    with Progress("judging prompts", len(files), done) as progress:
        while missing:
            together = max(judge.detector.batch // gallery.images_per_prompt, 1)
            group, missing = missing[:together], missing[together:]
            for (_, file), verdicts in zip(group, judge.judge([each for each, _ in group]), strict=True):
                write_text(file, verdicts.model_dump_json())
                progress.advance(1)
    return [read_kept(file, PromptVerdicts) for file in files]


def require_known(prompts: Sequence[Prompt]) -> None:
    """Raise UserError for a class that the detector has never seen, of which it would find nothing anywhere."""
    asked = {clause.object_class for prompt in prompts for clause in (*prompt.include, *prompt.exclude)}
    colors = {clause.color for prompt in prompts for clause in prompt.include if clause.color is not None}
    if unknown := sorted(asked.difference(OBJECTS)):
        raise UserError(
            f"the prompts ask for what no detector of COCO knows: {first_few(unknown, _SHOWN)}",
            "use GenEval's names of the 80 classes, such as tv remote or computer keyboard",
        )
    if unknown := sorted(colors.difference(COLORS)):
        raise UserError(
            f"the prompts ask for other colours than GenEval's: {first_few(unknown, _SHOWN)}",
            f"use these: {', '.join(COLORS)}",
        )


def _name_of(prompts: Sequence[Prompt]) -> str:
    return OFFICIAL_PROMPTS if _are_official(prompts) else f"prompts-{len(prompts)}"


def _about(prompts: Sequence[Prompt]) -> Iterator[str]:
    if not _are_official(prompts):
        yield f"these {len(prompts)} prompts are not GenEval's 553: their score is not GenEval's"


def _are_official(prompts: Sequence[Prompt]) -> bool:
    return prompts_sha256(prompts) == LINES_SHA256


def _fault(place: str, kind: NetworkKind) -> str:
    """Why there is no such network at that place; "" where there is one."""
    try:
        require_kind(find_folder(place, kind), kind)
    except UserError as error:
        return error.problem
    return ""
