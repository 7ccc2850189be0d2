"""The stored GenEval evaluation of a folder of images, or a new one."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.attachments import attachment_of
from harness.comparability import Circumstances, Conditions
from harness.declaring import Declared
from harness.errors import UserError
from harness.evaluating import EVALUATIONS, Evaluated, Folders, told_of
from harness.evaluation_records import EvaluationRecord
from harness.evaluation_store import append_evaluation, find_evaluation
from harness.files import require_writable
from harness.geneval_judging import (
    GenevalJudge,
    JudgeNames,
    open_judge,
    require_judge,
    require_known,
    score_gallery,
)
from harness.judging import Scores, Setting
from harness.locks import alone_in
from harness.metrics.clip_score import basis_of
from harness.metrics.geneval.layout import Gallery, look_through, require_folder
from harness.metrics.geneval.rules import OFFICIAL, Options
from harness.metrics.geneval.verdict_files import encode
from harness.prompt_scoring import Comparison, clip_score, open_comparison

KEPT, FEATURES = "geneval", "features"


@dataclass(frozen=True)
class Request:
    """What is to be judged: a folder in GenEval's layout; by which networks; and what is said of the images.

    With `clip_score` also how near images are to their prompts, with `references` how far from these.
    """

    images: Path
    judge: JudgeNames = field(default_factory=JudgeNames)
    options: Options = OFFICIAL
    clip_score: bool = False
    references: tuple[str, ...] = ()
    title: str = ""
    declared: Declared = field(default_factory=Declared)


def evaluate_geneval(request: Request, folders: Folders, setting: Setting, *, again: bool = False) -> Evaluated:
    """The stored evaluation of these images by these networks and this code, or a new one.

    Verdicts are kept below `folders.runs` prompt by prompt, so that an interrupted evaluation goes on.
    Raises UserError for a folder that is not whole and sound, and for networks and references that are not here.
    """
    require_folder(request.images)
    require_judge(request.judge)
    require_writable(folders.results)
    gallery = look_through(request.images)
    require_known([each.prompt for each in gallery.prompts])
    judge = open_judge(request.judge, setting.device, request.options)
    comparison = open_comparison(request.images, request.references, setting)
    conditions = _conditions(request.declared, gallery)
    made_by = setting.provenance()
    asked = _Asked(request, gallery, judge, comparison)
    evaluation_id = asked.identity(made_by.code_sha256)
    with alone_in(folders.runs / EVALUATIONS / gallery.images.sha256[:16] / KEPT) as folder:
        known = None if again else find_evaluation(folders.results, evaluation_id)
        if known is not None:
            return Evaluated(known.record, known.path, is_new=False)
        further = asked.further(folder)
        scored = score_gallery(gallery, judge, folder, request.declared.guidance)
        verdicts = encode(scored.verdicts)
        record = EvaluationRecord(
            evaluation_id=evaluation_id,
            created=datetime.now(UTC),
            images=gallery.images,
            title=request.title,
            declared=request.declared.words,
            conditions=conditions,
            circumstances=_circumstances(request.declared),
            measurements=(*scored.measurements, *further.measurements),
            notes=(*scored.notes, *further.notes),
            verdicts=attachment_of(verdicts),
            provenance=made_by,
        )
        return Evaluated(record, append_evaluation(folders.results, record, verdicts), is_new=True)


@dataclass(frozen=True)
class _Asked:
    """A request with its folder looked through, and all that judges it at hand."""

    request: Request
    gallery: Gallery
    judge: GenevalJudge
    comparison: Comparison

    def further(self, folder: Path) -> Scores:
        """What else was asked for than right or wrong, kept on its way in `folder`."""
        guidance = self.request.declared.guidance
        compared = self.comparison.scores(self.gallery, guidance, folder / FEATURES)
        if not self.request.clip_score:
            return compared
        clip = self.judge.colors.clip
        prompts = self.judge.basis([each.prompt for each in self.gallery.prompts], guidance).reference
        near = clip_score(self.gallery, clip, basis_of(clip, prompts, guidance), folder)
        return replace(compared, measurements=[near, *compared.measurements])

    def identity(self, code: str) -> str:
        """Twelve digits: equal for the same images of the same prompts, judges, options, code, and words about them."""
        prompts = [
            (each.prompt.model_dump(mode="json"), hashlib.sha256(each.digests.tobytes()).hexdigest())
            for each in self.gallery.prompts
        ]
        told = {
            "prompts": prompts,
            "judge": self.judge.identity.model_dump(),
            "settings": self.judge.settings,
            "clip score": self.request.clip_score,
            "references": sorted(map(told_of, self.comparison.judges)),
            "declared": self.request.declared.words,
            "title": self.request.title,
            "code": code,
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _conditions(declared: Declared, gallery: Gallery) -> Conditions:
    """What was declared, and what was seen: as many images of each prompt as of any other."""
    labels = declared.conditions.get("labels", "balanced")
    if labels == "random":
        raise UserError(
            f"labels=random was declared, and {gallery.images.name} has as many images of each prompt as of any other",
            "leave --declare labels out",
        )
    shape = {name: getattr(gallery.images, name) for name in ("num_images", "channels", "height", "width")}
    return Conditions.model_validate({**declared.conditions, **shape, "labels": "balanced"})


def _circumstances(declared: Declared) -> Circumstances:
    return Circumstances.model_validate(declared.circumstances)
