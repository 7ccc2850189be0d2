"""From features and references to measurements."""

# N generated images, n those of a piece, M images of a reference whose features are kept, F features, K classes

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from harness.comparability import UNGUIDED, Basis, ExtractorIdentity, GuidanceUsed, ReferenceIdentity
from harness.data import Labels
from harness.extractor import Matrix32
from harness.feature_store import StoredFeatures
from harness.metric_definitions import Kind, MetricDefinition, definitions_of, is_inception
from harness.metrics.frechet import FrechetReference, jackknife
from harness.metrics.inception_score import ADM_CHUNK, inception_score, inception_score_of_parts
from harness.metrics.kernel_distance import kernel_distance, mean_discrepancy
from harness.metrics.moments import CHUNKS, ChunkedMoments, MomentAccumulator, Moments
from harness.metrics.precision_recall import NEIGHBOURS, Arithmetic, Manifold, precision_recall
from harness.moment_files import Described, JudgedMoments
from harness.moment_files import FeatureKind as MomentKind
from harness.records import Measurement

FEWEST_FOR_INCEPTION = 50_000


@dataclass(frozen=True)
class OpenReference:
    """A reference at hand: `features` are (M, F).  `note` goes with each value that rests on it."""

    identity: ReferenceIdentity
    moments: Moments
    spatial: Moments | None = None
    features: Matrix32 | None = None
    note: str = ""


@dataclass(frozen=True)
class Gathered:
    """Moments of all images, summed in the order in which a reference is built: equal images give equal bits; and in
    parts, each of which can be left out.
    """

    whole: MomentAccumulator
    parts: ChunkedMoments


class FeatureMoments:
    """The moments of features, each kind gathered once, when it is first asked for."""

    def __init__(self, features: StoredFeatures) -> None:
        self._features = features
        self._gathered: dict[MomentKind, Gathered] = {}

    def of(self, kind: MomentKind) -> Gathered:
        if kind not in self._gathered:
            self._gathered[kind] = self._gather(kind)
        return self._gathered[kind]

    def gathered(self) -> Iterator[tuple[MomentKind, MomentAccumulator]]:
        """Whatever kinds were asked for, in the order of their names."""
        for kind in sorted(self._gathered):
            yield kind, self._gathered[kind].whole

    def _gather(self, kind: MomentKind) -> Gathered:
        width = self._features.width(kind)
        gathered = Gathered(MomentAccumulator(width), ChunkedMoments(width))
        for piece_nF in self._features.pieces(kind):
            gathered.parts.add(piece_nF, gathered.whole.count)
            gathered.whole.add(piece_nF)
        return gathered


@dataclass(frozen=True)
class Judged:
    """N generated images as one extractor saw them, and what is known of them.

    `labels` are the classes (N,) that were asked for, None where nobody said; `class_by_class` says that the images
    are sorted by something like a class; `device` is where large sets of distances are computed.
    """

    features: StoredFeatures
    extractor: ExtractorIdentity
    labels: Labels | None = None
    class_by_class: bool = False
    guidance: GuidanceUsed = UNGUIDED
    device: str = "cpu"

    @cached_property
    def moments(self) -> FeatureMoments:
        """The moments of the features, gathered when they are first asked for."""
        return FeatureMoments(self.features)

    def judged_moments(self) -> list[JudgedMoments]:
        """The moments that a distance was asked of, and whose they are."""
        return [JudgedMoments(self._described(kind), found.moments()) for kind, found in self.moments.gathered()]

    def _described(self, kind: MomentKind) -> Described:
        count = self.features.num_images
        return Described(extractor=self.extractor, kind=kind, guidance=self.guidance, count=count)


@dataclass(frozen=True)
class _Value:
    """A measurement before it has a name; `settings` are what others might set otherwise."""

    value: float
    parts: dict[str, float] = field(default_factory=dict)
    standard_error: float | None = None
    note: str = ""
    settings: str = ""


def score(judged: Judged, references: Sequence[OpenReference]) -> list[Measurement]:
    """Whatever this extractor's features and these references give; what they do not give is absent.

    Where there are several references, a measurement of the same name for each, with another `basis.reference`.
    Raises UserError for fewer images than a distance needs.
    """
    definitions = definitions_of(judged.extractor.name)
    alone = dict(_values_alone(judged, {definition.kind for definition in definitions}))
    found = [
        _measurement(judged, definition, alone[definition.kind], None)
        for definition in definitions
        if definition.kind in alone
    ]
    for reference in references:
        compared = dict(_values_against(judged, reference, {definition.kind for definition in definitions}))
        found += [
            _measurement(judged, definition, compared[definition.kind], reference)
            for definition in definitions
            if definition.kind in compared
        ]
    order = [definition.name for definition in definitions]
    return sorted(found, key=lambda measurement: order.index(measurement.name))


def not_given(judged: Judged, references: Sequence[OpenReference], found: Sequence[Measurement]) -> list[str]:
    """In words, which of an extractor's numbers are absent, and why."""
    missing = []
    for definition in definitions_of(judged.extractor.name):
        for reference in references if definition.has_reference else [None]:
            identity = reference and reference.identity
            if not any(m.name == definition.name and m.basis and m.basis.reference == identity for m in found):
                against = f" against {identity.name}" if identity else ""
                missing.append(f"no {definition.name}{against}: needs {_needed(judged, definition, reference)}")
    return missing


def _needed(judged: Judged, definition: MetricDefinition, reference: OpenReference | None) -> str:
    """What an absent number wants: neighbours of each image, or something that is not there at all."""
    if definition.kind in ("precision", "recall") and reference is not None and reference.features is not None:
        where = "" if judged.features.num_images <= NEIGHBOURS else " whose features the reference holds"
        return f"more than {NEIGHBOURS} images{where}"
    return " and ".join(definition.needs)


def _values_alone(judged: Judged, wanted: set[Kind]) -> Iterator[tuple[Kind, _Value]]:
    """What needs no reference."""
    if not judged.features.has("probabilities"):
        return
    if "inception score" in wanted:
        yield "inception score", _inception_score(judged)
    if "accuracy" in wanted and judged.labels is not None:
        seen = [piece_nK.argmax(axis=1) for piece_nK in judged.features.pieces("probabilities")]
        yield "accuracy", _Value(float((np.concatenate(seen) == judged.labels).mean()))


def _values_against(judged: Judged, reference: OpenReference, wanted: set[Kind]) -> Iterator[tuple[Kind, _Value]]:
    if "frechet" in wanted:
        yield "frechet", _frechet(judged.moments.of("pooled"), reference.moments)
    if "spatial frechet" in wanted and reference.spatial is not None and judged.features.has("spatial"):
        yield "spatial frechet", _frechet(judged.moments.of("spatial"), reference.spatial)
    if reference.features is None:
        return
    pooled_NF = judged.features.whole("pooled")
    if "precision" in wanted and min(len(pooled_NF), len(reference.features)) > NEIGHBOURS:
        yield from _precision_and_recall(pooled_NF, reference.features, judged.device)
    if "kernel distance" in wanted:
        kernel = kernel_distance(pooled_NF, reference.features)
        settings = f"{kernel.subsets} subsets of {kernel.subset_size} of {_kept(reference.features)}"
        yield "kernel distance", _Value(kernel.value, {"spread": kernel.spread}, settings=settings)
    if "cmmd" in wanted:
        cmmd = mean_discrepancy(pooled_NF, reference.features)
        parts = {"within": cmmd.within, "within_reference": cmmd.within_reference, "between": cmmd.between}
        yield "cmmd", _Value(cmmd.value, parts, settings=_kept(reference.features))


def _inception_score(judged: Judged) -> _Value:
    """As ADM, in the order of the files; images that are sorted by class are shuffled, as ADM's never are."""
    probabilities_NK = judged.features.whole("probabilities")
    if judged.class_by_class:
        count = -(-len(probabilities_NK) // ADM_CHUNK)
        found = inception_score_of_parts(probabilities_NK, count, seed=0)
        note = "the images lie class by class: their order was shuffled for this"
    else:
        found, note = inception_score(probabilities_NK), ""
    return _Value(found.value, {"spread": found.spread, "chunks": found.parts}, note=note)


def _frechet(gathered: Gathered, moments: Moments) -> _Value:
    """The distance and its parts; with a jackknife where each of its chunks can be left out."""
    ours, reference = gathered.whole.moments(), FrechetReference(moments)
    distance = reference.distance(ours)
    parts = {"mean": distance.mean, "covariance": distance.covariance}
    assert ours.count is not None, "images that were counted"
    if ours.count < 2 * CHUNKS:
        return _Value(distance.value, parts)
    without = jackknife(gathered.parts.chunks, reference)
    return _Value(distance.value, {**parts, "unbiased": without.unbiased}, without.standard_error)


def _precision_and_recall(pooled_NF: Matrix32, reference_MF: Matrix32, device: str) -> Iterator[tuple[Kind, _Value]]:
    arithmetic = Arithmetic(device=device)
    both = precision_recall(Manifold(pooled_NF, arithmetic=arithmetic), Manifold(reference_MF, arithmetic=arithmetic))
    settings = f"k = {NEIGHBOURS}, {_kept(reference_MF)}"
    yield "precision", _Value(both.precision, settings=settings)
    yield "recall", _Value(both.recall, settings=settings)


def _kept(reference_MF: Matrix32) -> str:
    return f"{len(reference_MF)} reference images"


def _measurement(
    judged: Judged, definition: MetricDefinition, value: _Value, reference: OpenReference | None
) -> Measurement:
    few = judged.features.num_images < FEWEST_FOR_INCEPTION and is_inception(judged.extractor.name)
    biased = definition.kind in ("frechet", "spatial frechet")
    notes = [value.note, reference.note if reference else ""]
    notes += [f"biased upwards below {FEWEST_FOR_INCEPTION:,} images: kid is not"] if few and biased else []
    return Measurement(
        name=definition.name,
        value=value.value,
        unit=definition.unit,
        better=definition.better,
        num_images=judged.features.num_images,
        note="; ".join(filter(None, notes)),
        basis=Basis(
            version=definition.version,
            extractor=judged.extractor,
            reference=reference.identity if reference else None,
            guidance=judged.guidance,
            settings=value.settings,
        ),
        parts=value.parts,
        standard_error=value.standard_error,
    )
