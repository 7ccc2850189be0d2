"""Judge images that lie on a disk: look through them, extract their features, score them, keep the record."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from harness import provenance, references
from harness.comparability import UNGUIDED, Circumstances, Conditions, GuidanceUsed, guidance_used
from harness.data import digits
from harness.declaring import Declared
from harness.digits_judge import REFERENCE as DIGITS
from harness.errors import UserError
from harness.evaluation_records import EvaluationRecord
from harness.evaluation_store import append_evaluation, find_evaluation
from harness.extractor import Extractor
from harness.feature_store import extract_all
from harness.files import require_writable
from harness.image_sets import Expected, Survey, open_images, require_plausible, survey, with_oddities
from harness.locks import alone_in
from harness.machine import name_of
from harness.metrics.moments import MomentAccumulator, Moments
from harness.open_extractor import open_extractor
from harness.records import Measurement, Provenance, RunRecord
from harness.references import ReferenceManifest, require_same_extractor
from harness.scoring import Judged, OpenReference, not_given, score
from harness.stored_images import StoredImages, chunks
from harness.workspace import Workspace

EVALUATIONS = "evaluations"
DIGITS_SHAPE = (1, 8, 8)
DECLARED_NOTE = "the extractor of this reference was declared, not seen"

# By extractor, the references that are compared with; None stands for the digits, which are made on the fly.
Compared = Mapping[str, Sequence[ReferenceManifest | None]]
Open = Callable[[str, str | None, torch.device], Extractor]


@dataclass(frozen=True)
class Setting:
    """Where things lie, and what computes.  `weights` are those of extractors, by name; "" is for the only one."""

    runs: Path = Path("runs")
    results: Path = Path("results")
    references: Path = Path("references")
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    weights: Mapping[str, str] = field(default_factory=dict)
    open_extractor: Open = open_extractor

    def extractor(self, name: str) -> Extractor:
        """An extractor with the weights that were named for it."""
        return self.open_extractor(name, self.weights.get(name, self.weights.get("")), self.device)


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

    def conditions(self, found: Survey) -> Conditions:
        """Those of the run, or what was declared; labels that were seen to be balanced need no declaration."""
        images = found.images
        if self.run is not None:
            return self.run.conditions
        said = dict(self.declared.conditions)
        counts = images.class_counts
        if said.get("labels") == "balanced" and counts is not None and len(set(counts)) > 1:
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
        return guidance_used(self.run.config.protocol.guidance) if self.run else self.declared.guidance


@dataclass(frozen=True)
class _Seen:
    """Images, what was found in them, and how their sampling was guided."""

    stored: StoredImages
    found: Survey
    guidance: GuidanceUsed


@dataclass(frozen=True)
class Scores:
    """What was measured, and in words what was not."""

    measurements: list[Measurement]
    notes: list[str]


def evaluate(request: Request, setting: Setting, *, again: bool = False) -> Evaluated:
    """The stored evaluation of these images against these references by this code, or a new one.

    Features are kept below `setting.runs`, so that an interrupted evaluation goes on.  Raises UserError for images that
    cannot be judged, references that are not there, and references that another extractor made.
    """
    subject = _subject(request, setting)
    with open_images(subject.place) as stored:
        wanted = _wanted(request.references, stored, setting)
        require_writable(setting.results)
        found = survey(stored)
        found = with_oddities(found) if subject.run else require_plausible(found, subject.expected)
        conditions = subject.conditions(found)
        made_by = _provenance(setting.device)
        evaluation_id = _identity(subject, found, wanted, setting.weights, made_by.code_sha256)
        with alone_in(setting.runs / EVALUATIONS / found.images.sha256[:16]) as folder:
            known = None if again else find_evaluation(setting.results, evaluation_id)
            if known is not None:
                return Evaluated(*known, is_new=False)
            scores = _scores(_Seen(stored, found, subject.guidance), wanted, setting, folder)
            if subject.unguided is not None:
                plain = score_run(subject.unguided, request.references, UNGUIDED, setting, folder / "unguided")
                scores.measurements.extend(plain.measurements)
            record = EvaluationRecord(
                evaluation_id=evaluation_id,
                created=datetime.now(UTC),
                images=found.images,
                run_id=subject.run.run_id if subject.run else None,
                title=subject.title,
                declared=subject.declared.words,
                conditions=conditions,
                circumstances=subject.circumstances,
                measurements=tuple(scores.measurements),
                notes=(*found.notes, *scores.notes),
                provenance=made_by,
            )
            return Evaluated(record, append_evaluation(setting.results, record), is_new=True)


def score_run(samples: Path, names: Sequence[str], guidance: GuidanceUsed, setting: Setting, folder: Path) -> Scores:
    """What a run's own samples (its `.npz` with labels) give against these references; features go into `folder`.

    Raises UserError for references that are not there, or that another extractor made.
    """
    with open_images(samples) as stored:
        wanted = _wanted(tuple(names), stored, setting)
        found = survey(stored)
        with alone_in(folder):
            scores = _scores(_Seen(stored, found, guidance), wanted, setting, folder)
        return Scores(scores.measurements, [*with_oddities(found).notes, *scores.notes])


def _subject(request: Request, setting: Setting) -> _Subject:
    if request.run_id is None:
        assert request.images is not None, "nothing to judge"
        return _Subject(request.images, None, None, request.expected, request.declared, request.title)
    if request.images is not None or request.declared.words:
        raise UserError(
            "--run brings its own images, and its record says how they were made",
            "leave --images and --declare out, or leave --run out",
        )
    space = Workspace(setting.runs / request.run_id)
    record = space.finished()
    if record is None or not space.samples.exists():
        raise UserError(
            f"there is no finished run {request.run_id} with samples below {setting.runs}",
            "give the whole run id, and --runs if the runs are elsewhere; `run` finishes what was interrupted",
        )
    unguided = space.unguided_samples if space.unguided_samples.exists() else None
    return _Subject(space.samples, record, unguided, request.expected, request.declared, request.title)


def _wanted(names: tuple[str, ...], stored: StoredImages, setting: Setting) -> Compared:
    """The references of these names; for 8 x 8 grey images without a name the digits.  Raises UserError for others."""
    if not names and stored.shape != DIGITS_SHAPE:
        known = sorted({manifest.reference.name for manifest in references.list_references(setting.references)})
        raise UserError(
            f"compare these images with which references? {setting.references} holds {', '.join(known) or 'none'}",
            f"add --references NAME,NAME; make one by {references.HOW_TO_MAKE}",
        )
    wanted: dict[str, list[ReferenceManifest | None]] = {}
    for name in dict.fromkeys(names or (DIGITS.name,)):
        if name == DIGITS.name:
            wanted.setdefault(DIGITS.name, []).append(None)
            continue
        for manifest in references.find(setting.references, name):
            if manifest not in wanted.setdefault(manifest.extractor.name, []):
                wanted[manifest.extractor.name].append(manifest)
    if "" in setting.weights and len(wanted) > 1:
        raise UserError(
            f"these references are of {len(wanted)} extractors: {', '.join(wanted)}",
            "say whose weights these are: --extractor-weights NAME=PATH, once for each",
        )
    return wanted


def _identity(subject: _Subject, found: Survey, wanted: Compared, weights: Mapping[str, str], code: str) -> str:
    """Twelve digits: equal for the same images, references, code, and the same that is said of the images."""
    labels = b"" if found.labels is None else found.labels.tobytes()
    told = {
        "images": hashlib.sha256(found.digests.tobytes() + labels).hexdigest(),
        "references": [
            (name, manifest and (manifest.reference.model_dump(), manifest.extractor.model_dump(), manifest.files))
            for name, manifests in sorted(wanted.items())
            for manifest in manifests
        ],
        "weights": dict(weights),
        "conditions": subject.conditions(found).model_dump(mode="json"),
        "circumstances": subject.circumstances.model_dump(mode="json"),
        "guidance": subject.guidance.model_dump(mode="json"),
        "title": subject.title,
        "run": subject.run.run_id if subject.run else None,
        "code": code,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _scores(seen: _Seen, wanted: Compared, setting: Setting, folder: Path) -> Scores:
    scores = Scores([], [])
    for name, manifests in wanted.items():
        extractor = setting.extractor(name)
        opened = [_open(manifest, extractor, setting) for manifest in manifests]
        judged = Judged(
            features=extract_all(
                seen.stored,
                seen.found.digests,
                extractor,
                folder / _features_folder(extractor, _provenance(setting.device).code_sha256),
            ),
            extractor=extractor.identity,
            labels=seen.found.labels if seen.found.labels_are_classes else None,
            class_by_class=_class_by_class(seen.found),
            guidance=seen.guidance,
            device=str(setting.device),
        )
        measured = score(judged, opened)
        scores.measurements.extend(measured)
        scores.notes.extend(not_given(judged, opened, measured))
    return scores


def _open(manifest: ReferenceManifest | None, extractor: Extractor, setting: Setting) -> OpenReference:
    if manifest is None:
        return _digits(extractor)
    require_same_extractor(manifest, extractor.identity)
    arrays = references.load(setting.references, manifest)
    count = manifest.reference.num_images
    spatial = None
    if arrays.spatial_mean is not None and arrays.spatial_covariance is not None:
        spatial = Moments(count, arrays.spatial_mean, arrays.spatial_covariance)
    return OpenReference(
        manifest.reference,
        Moments(count, arrays.mean, arrays.covariance),
        spatial,
        arrays.features,
        DECLARED_NOTE if manifest.is_declared else "",
    )


def _digits(extractor: Extractor) -> OpenReference:
    """All 1,797 digits, in the pieces in which generated images are seen."""
    pieces = [extractor.extract(digits().pixels(np.arange(*piece))).pooled for piece in chunks(len(digits()))]
    gathered = MomentAccumulator(pieces[0].shape[1])
    for piece_nF in pieces:
        gathered.add(piece_nF)
    return OpenReference(DIGITS, gathered.moments(), features=np.concatenate(pieces))


def _features_folder(extractor: Extractor, code: str) -> str:
    """Features of another extractor, or by other code, are others."""
    told = json.dumps([extractor.identity.model_dump(), code])
    return f"{extractor.identity.name.replace('/', '--')}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _class_by_class(found: Survey) -> bool:
    labels = found.labels
    return labels is not None and bool(labels[0] != labels[-1]) and bool((np.diff(labels) >= 0).all())


def _provenance(device: torch.device) -> Provenance:
    return provenance.collect(
        device=str(device),
        device_name=name_of(device),
        precision="float32",
        threads=torch.get_num_threads(),
        sampling_batch=None,
    )
