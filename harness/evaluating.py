"""The stored evaluation of images, or a new one."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.comparability import UNGUIDED, Circumstances, Conditions, GuidanceUsed, guidance_used
from harness.declaring import Declared
from harness.errors import UserError
from harness.evaluation_records import EvaluationRecord
from harness.evaluation_store import append_evaluation, find_evaluation
from harness.files import require_writable
from harness.image_sets import Expected, Survey, open_images, require_plausible, survey, with_oddities
from harness.judging import Judge, Kept, Seen, Setting, find_judges, judge, setting_of
from harness.locks import alone_in
from harness.machine import start
from harness.records import Measurement, RunRecord
from harness.spec import RunConfig
from harness.workspace import Workspace

EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class Folders:
    """Where runs are found and features are kept on their way, and where the records go."""

    runs: Path = Path("runs")
    results: Path = Path("results")


@dataclass(frozen=True)
class Request:
    """What is to be judged: `images`, or the samples of the finished run `run_id`."""

    images: Path | None
    references: tuple[str, ...] = ()
    run_id: str | None = None
    title: str = ""
    declared: Declared = field(default_factory=Declared)
    expected: Expected = field(default_factory=Expected)


@dataclass(frozen=True)
class Evaluated:
    """The record, where it lies, and whether it was made now."""

    record: EvaluationRecord
    path: Path
    is_new: bool


@dataclass(frozen=True)
class _Subject:
    """Images with all that is known of them; `unguided` are those of a guided run that were sampled without."""

    place: Path
    run: RunRecord | None
    unguided: Path | None
    expected: Expected
    declared: Declared
    title: str

    def looked_through(self, found: Survey) -> Survey:
        """What was found, with what is odd among its notes: of anybody's images some oddities are refused."""
        return with_oddities(found) if self.run else require_plausible(found, self.expected)

    def conditions(self, found: Survey) -> Conditions:
        """Those of the run, or what was declared; labels that were seen to be balanced need no declaration."""
        images = found.images
        if self.run is not None:
            return self.run.conditions
        said = dict(self.declared.conditions)
        if said.get("labels") == "balanced" and found.is_balanced is False:
            counts = found.class_counts or ()
            raise UserError(
                f"labels=balanced was declared, and {images.name} holds {min(counts):,} to {max(counts):,} of a class",
                "leave --declare labels out, or complete the set",
            )
        if found.is_balanced:
            said.setdefault("labels", "balanced")
        shape = {name: getattr(images, name) for name in ("num_images", "channels", "height", "width")}
        return Conditions.model_validate(said | shape)

    @property
    def circumstances(self) -> Circumstances:
        if self.run is not None:
            return self.run.circumstances
        return Circumstances.model_validate(self.declared.circumstances)

    @property
    def guidance(self) -> GuidanceUsed:
        return guidance_used(self.run.config) if self.run else self.declared.guidance


def evaluate(request: Request, folders: Folders, setting: Setting, *, again: bool = False) -> Evaluated:
    """The stored evaluation of these images against these references by this code, or a new one.

    Features are kept below `folders.runs`, so that an interrupted evaluation goes on.  Raises UserError for images that
    cannot be judged, references that are not there, and references that another extractor made.
    """
    subject = _subject(request, folders.runs)
    with open_images(subject.place) as stored:
        judges = find_judges(request.references, stored.shape, setting)
        require_writable(folders.results)
        seen = Seen(stored, subject.looked_through(survey(stored)), subject.guidance)
        conditions = subject.conditions(seen.found)
        made_by = setting.provenance()
        evaluation_id = _identity(subject, seen, conditions, judges, made_by.code_sha256)
        with alone_in(folders.runs / EVALUATIONS / seen.found.images.sha256[:16]) as folder:
            known = None if again else find_evaluation(folders.results, evaluation_id)
            if known is not None:
                return Evaluated(known.record, known.path, is_new=False)
            scores = judge(seen, judges, setting, Kept(folder, made_by.code_sha256))
            if subject.unguided is not None:
                plain = Kept(folder / "unguided", made_by.code_sha256)
                scores.measurements.extend(_unguided(subject.unguided, judges, setting, plain))
            record = EvaluationRecord(
                evaluation_id=evaluation_id,
                created=datetime.now(UTC),
                images=seen.found.images,
                run_id=subject.run.run_id if subject.run else None,
                title=subject.title,
                declared=subject.declared.words,
                conditions=conditions,
                circumstances=subject.circumstances,
                measurements=tuple(scores.measurements),
                notes=(*seen.found.notes, *scores.notes),
                provenance=made_by,
            )
            return Evaluated(record, append_evaluation(folders.results, record), is_new=True)


def evaluate_run(config: RunConfig, names: tuple[str, ...]) -> Path:
    """Judge the samples of a finished run against further references, by its own settings; returns the record's path.

    Raises UserError where its samples are gone, and as `evaluate` does.
    """
    execution = config.execution
    setting = setting_of(execution, start(execution.device, execution.threads))
    request = Request(images=None, references=names, run_id=config.run_id)
    return evaluate(request, Folders(Path(execution.runs), Path(execution.results)), setting).path


def told_of(each: Judge) -> str:
    """What a judge is: an extractor, by its weights wherever they lie, and its references."""
    references = [
        manifest and (manifest.reference.model_dump(), manifest.extractor.model_dump(), manifest.files)
        for manifest in each.references
    ]
    return json.dumps([each.extractor.identity.model_dump(), references], sort_keys=True)


def _subject(request: Request, runs: Path) -> _Subject:
    if request.run_id is None:
        assert request.images is not None, "nothing to judge"
        return _Subject(request.images, None, None, request.expected, request.declared, request.title)
    if request.images is not None or request.declared.words:
        raise UserError(
            "--run brings its own images, and its record says how they were made",
            "leave --images and --declare out, or leave --run out",
        )
    space = Workspace(runs / request.run_id)
    record = space.finished()
    if record is None or not space.samples.exists():
        raise UserError(
            f"there is no finished run {request.run_id} with samples below {runs}",
            "give the whole run id, and --runs if the runs are elsewhere; `run` finishes what was interrupted",
        )
    unguided = space.unguided_samples if space.unguided_samples.exists() else None
    return _Subject(space.samples, record, unguided, request.expected, request.declared, request.title)


def _identity(subject: _Subject, seen: Seen, conditions: Conditions, judges: Sequence[Judge], code: str) -> str:
    """Twelve digits: equal for the same images, references, weights, code, and the same that is said of the images."""
    found = seen.found
    labels = b"" if found.labels is None else found.labels.tobytes()
    told = {
        "images": hashlib.sha256(found.digests.tobytes() + labels).hexdigest(),
        "judges": sorted(map(told_of, judges)),
        "conditions": conditions.model_dump(mode="json"),
        "circumstances": subject.circumstances.model_dump(mode="json"),
        "guidance": seen.guidance.model_dump(mode="json"),
        "title": subject.title,
        "run": subject.run.run_id if subject.run else None,
        "code": code,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _unguided(samples: Path, judges: Sequence[Judge], setting: Setting, kept: Kept) -> list[Measurement]:
    """What the samples of a guided run that were made without guidance give."""
    with open_images(samples) as stored:
        return judge(Seen(stored, survey(stored), UNGUIDED), judges, setting, kept).measurements
