"""Judge images against references: from what lies on a disk to measurements."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from harness import provenance, references
from harness.comparability import GuidanceUsed
from harness.data import digits
from harness.digits_judge import REFERENCE as DIGITS
from harness.distributed import ALONE, World
from harness.errors import UserError
from harness.extractor import Extractor
from harness.extractors import weights_by_extractor
from harness.feature_store import extract_all
from harness.image_sets import Survey, open_images, survey, with_oddities
from harness.locks import alone_in
from harness.machine import name_of
from harness.metrics.geneval.verdicts import PromptVerdicts
from harness.metrics.moments import MomentAccumulator, Moments
from harness.moment_files import JudgedMoments
from harness.open_extractor import open_extractor
from harness.records import Measurement, Provenance
from harness.references import ReferenceManifest, require_same_extractor
from harness.scoring import Judged, OpenReference, not_given, score
from harness.spec import Execution
from harness.stored_images import StoredImages, chunks

DIGITS_SHAPE = (1, 8, 8)
DECLARED_NOTE = "the extractor of this reference was declared, not seen"

Open = Callable[[str, str | None, torch.device], Extractor]


@dataclass(frozen=True)
class Setting:
    """Where references lie, and what computes.  `weights` are those of extractors, by name; "" is for the only one.

    The processes of a `world` extract features together, and the first one judges.
    """

    references: Path = Path("references")
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    weights: Mapping[str, str] = field(default_factory=dict)
    open_extractor: Open = open_extractor
    world: World = ALONE

    def extractor(self, name: str) -> Extractor:
        """An extractor with the weights that were named for it."""
        return self.open_extractor(name, self.weights.get(name, self.weights.get("")), self.device)

    def provenance(self) -> Provenance:
        """Of what is judged here now."""
        return provenance.collect(
            device=str(self.device),
            device_name=name_of(self.device),
            precision="float32",
            threads=torch.get_num_threads(),
            sampling_batch=None,
        )


def setting_of(execution: Execution, device: torch.device, world: World = ALONE) -> Setting:
    """Where a run's references lie, whose weights its extractors have, and who works on it."""
    weights = weights_by_extractor(execution.extractor_weights)
    return Setting(references=execution.references_dir, device=device, weights=weights, world=world)


@dataclass(frozen=True)
class Judge:
    """An extractor, and the references that it made; None stands for the digits, which are made on the fly."""

    extractor: Extractor
    references: tuple[ReferenceManifest | None, ...]


@dataclass(frozen=True)
class Seen:
    """Images, what was found in them, and how their sampling was guided."""

    stored: StoredImages
    found: Survey
    guidance: GuidanceUsed


@dataclass(frozen=True)
class Kept:
    """Where features are kept, and the digest of the code that makes them: by other code they are others."""

    folder: Path
    code_sha256: str

    def place(self, extractor: Extractor) -> Path:
        """The folder of one extractor's features."""
        identity = extractor.identity
        told = json.dumps([identity.model_dump(), self.code_sha256])
        return self.folder / f"{identity.name.replace('/', '--')}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Scores:
    """What was measured, in words what was not, and what it rests on: moments of features, verdicts on images."""

    measurements: list[Measurement]
    notes: list[str]
    moments: list[JudgedMoments] = field(default_factory=list)
    verdicts: list[PromptVerdicts] = field(default_factory=list)


def score_run(samples: Path, names: Sequence[str], guidance: GuidanceUsed, setting: Setting, folder: Path) -> Scores:
    """What a run's own samples (its `.npz` with labels) give against these references; features go into `folder`.

    Raises UserError for references that are not there, or that another extractor made.
    """
    with open_images(samples) as stored:
        judges = find_judges(tuple(names), stored.shape, setting)
        found = setting.world.by_first(lambda: survey(stored))
        with alone_in(folder) if setting.world.is_first else nullcontext():
            kept = Kept(folder, setting.provenance().code_sha256)
            scores = judge(Seen(stored, found, guidance), judges, setting, kept)
        return replace(scores, notes=[*with_oddities(found).notes, *scores.notes])


def find_judges(names: tuple[str, ...], shape: tuple[int, ...], setting: Setting) -> list[Judge]:
    """The references of these names, by extractor, for images (C, H, W); for 8 x 8 grey ones without a name the digits.

    Raises UserError where there is no such reference, its extractor cannot be opened, or another one made it.
    """
    wanted = _wanted(names, shape, setting)
    judges = [Judge(setting.extractor(name), tuple(manifests)) for name, manifests in wanted.items()]
    for each in judges:
        for manifest in filter(None, each.references):
            require_same_extractor(manifest, each.extractor.identity)
    return judges


def judge(seen: Seen, judges: Sequence[Judge], setting: Setting, kept: Kept) -> Scores:
    """What images give in the eyes of each extractor.  Features that are kept already are not extracted again.

    The first process of the setting's world finds everything, the others nothing.
    """
    scores = Scores([], [])
    features = [
        extract_all(seen.stored, seen.found.digests, each.extractor, kept.place(each.extractor), setting.world)
        for each in judges
    ]
    if not setting.world.is_first:
        return scores
    for each, extracted in zip(judges, features, strict=True):
        opened = [
            digits_reference(each.extractor) if manifest is None else open_reference(setting.references, manifest)
            for manifest in each.references
        ]
        judged = Judged(
            features=extracted,
            extractor=each.extractor.identity,
            labels=seen.found.labels if seen.found.labels_are_classes else None,
            class_by_class=_class_by_class(seen.found),
            guidance=seen.guidance,
            device=str(setting.device),
        )
        measured = score(judged, opened)
        scores.measurements.extend(measured)
        scores.notes.extend(not_given(judged, opened, measured))
        scores.moments.extend(judged.judged_moments())
    return scores


def open_reference(folder: Path, manifest: ReferenceManifest) -> OpenReference:
    """A reference of that folder.  Raises UserError where its files are not those that the manifest tells of."""
    arrays = references.load(folder, manifest)
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


def digits_reference(extractor: Extractor) -> OpenReference:
    """All 1,797 digits, in the pieces in which generated images are seen."""
    pieces = [extractor.extract(digits().pixels(np.arange(*piece))).pooled for piece in chunks(len(digits()))]
    gathered = MomentAccumulator(pieces[0].shape[1])
    for piece_nF in pieces:
        gathered.add(piece_nF)
    return OpenReference(DIGITS, gathered.moments(), features=np.concatenate(pieces))


def _wanted(
    names: tuple[str, ...], shape: tuple[int, ...], setting: Setting
) -> Mapping[str, Sequence[ReferenceManifest | None]]:
    """References by the name of their extractor."""
    if not names and shape != DIGITS_SHAPE:
        known = sorted({manifest.reference.name for manifest in references.list_references(setting.references)})
        raise UserError(
            f"compare these images with which references? {setting.references} holds {', '.join(known) or 'none'}",
            f"add --references NAME,NAME; make one by {references.HOW_TO_MAKE}",
        )
    wanted: dict[str, list[ReferenceManifest | None]] = {}
    for name in dict.fromkeys(names or (DIGITS.name,)):
        if name == DIGITS.name:
            if shape != DIGITS_SHAPE:
                raise UserError(
                    f"the digits are 8 x 8 and grey: no reference for images of {' x '.join(map(str, shape))}",
                    f"leave digits out of --references; make a reference by {references.HOW_TO_MAKE}",
                )
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


def _class_by_class(found: Survey) -> bool:
    labels = found.labels
    return labels is not None and bool(labels[0] != labels[-1]) and bool((np.diff(labels) >= 0).all())
