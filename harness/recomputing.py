"""Compute the distances of a record again, from the moments that were submitted with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from harness.comparability import Basis, ReferenceIdentity
from harness.digits_judge import EXTRACTOR
from harness.digits_judge import REFERENCE as DIGITS
from harness.errors import UserError
from harness.judging import digits_reference, open_reference
from harness.metric_definitions import MetricDefinition, definitions_of
from harness.metrics.frechet import FrechetReference
from harness.metrics.moments import Moments
from harness.moment_files import FeatureKind, JudgedMoments, read_moments
from harness.open_extractor import open_extractor
from harness.records import Measurement, RunRecord
from harness.references import list_references, require_same_extractor
from harness.scoring import OpenReference

KINDS: dict[str, FeatureKind] = {"frechet": "pooled", "spatial frechet": "spatial"}
_REMEDY = "submit the moments of this very run, or the record without them"


@dataclass(frozen=True)
class Recomputed:
    """Recorded measurements with what their moments give here, and in words what could not be computed again."""

    values: list[tuple[Measurement, float]] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)


def recompute(record: RunRecord, moments: Path, references: Path) -> Recomputed:
    """Every Fréchet distance of a record, from the moments in that file and the references in that folder.

    The digits' reference is made here: on another processor its features, and so the values, may differ in their last
    digits.  Raises UserError for a file that is damaged, not the one that the record names, or of other images or
    features than the record's.
    """
    if record.moments is None:
        raise UserError(f"the record of run {record.run_id} names no moments", _REMEDY)
    judged = read_moments(moments, record.moments)
    distances = [distance for measurement in record.measurements for distance in _distance(measurement)]
    _require_of_record(record, moments, judged, distances)
    found = Recomputed()
    for distance in distances:
        theirs = next((each.moments for each in judged if distance.rests_on(each)), None)
        if theirs is None:
            found.unavailable.append(f"{distance.words()}: its moments are not in the file")
            continue
        try:
            reference = distance.reference(references)
        except UserError as error:
            found.unavailable.append(f"{distance.words()}: {error.problem}")
            continue
        if reference.width != theirs.width:
            raise _refused(moments, f"the features of {distance.words()} are {theirs.width}, not {reference.width}")
        found.values.append((distance.measurement, FrechetReference(reference).distance(theirs).value))
    return found


@dataclass(frozen=True)
class _Distance:
    """A measurement that is a Fréchet distance, what it rests on, and how such a number is defined here."""

    measurement: Measurement
    basis: Basis
    definition: MetricDefinition

    @property
    def kind(self) -> FeatureKind:
        return KINDS[self.definition.kind]

    def words(self) -> str:
        """For a person: "fid against imagenet256-train (inception-clean)"."""
        return f"{self.measurement.name} {self.basis.words()}"

    def rests_on(self, judged: JudgedMoments) -> bool:
        theirs = judged.described
        mine = (self.basis.extractor, self.kind, self.basis.guidance)
        return mine == (theirs.extractor, theirs.kind, theirs.guidance)

    def reference(self, folder: Path) -> Moments:
        """The moments of what was compared with.  Raises UserError where they cannot be had here."""
        extractor, identity = self.basis.extractor, self.basis.reference
        assert extractor is not None, "a distance of features"
        assert identity is not None, "a distance from something"
        if (self.basis.implementation, self.basis.version) != (Basis().implementation, self.definition.version):
            raise UserError("it was computed by other arithmetic than today's", _REMEDY)
        if _is_same(identity, DIGITS) and extractor == EXTRACTOR:
            return _digits()
        for manifest in list_references(folder):
            if _is_same(identity, manifest.reference) and manifest.extractor.name == extractor.name:
                require_same_extractor(manifest, extractor)
                return self._of(open_reference(folder, manifest))
        raise UserError(f"the reference {identity.name} is not in {folder}", "build or import it there")

    def _of(self, opened: OpenReference) -> Moments:
        if self.kind == "pooled":
            return opened.moments
        if opened.spatial is None:
            raise UserError(f"the reference {opened.identity.name} holds no spatial features", "build it anew")
        return opened.spatial


def _distance(measurement: Measurement) -> Iterator[_Distance]:
    """A measurement with its definition, where it is a Fréchet distance; nothing where it is none."""
    basis = measurement.basis
    if basis is None or basis.extractor is None or basis.reference is None:
        return
    for definition in definitions_of(basis.extractor.name):
        if definition.name == measurement.name and definition.kind in KINDS:
            yield _Distance(measurement, basis, definition)


def _require_of_record(
    record: RunRecord, path: Path, judged: Sequence[JudgedMoments], distances: Sequence[_Distance]
) -> None:
    """Raise UserError where moments are not of the record's images, or of features that it was never judged by."""
    for each in judged:
        resting = [distance.measurement for distance in distances if distance.rests_on(each)]
        if not resting:
            raise _refused(path, f"no distance of the record rests on {each.described.words()}")
        said = {record.conditions.num_images, *(measurement.num_images for measurement in resting)}
        if said != {each.described.count}:
            told = ", ".join(sorted(map(str, said)))
            raise _refused(path, f"it is of {each.described.count} images, and the record of {told}")


def _refused(path: Path, reason: str) -> UserError:
    return UserError(f"{path} does not belong to its record: {reason}", _REMEDY)


def _is_same(one: ReferenceIdentity, other: ReferenceIdentity) -> bool:
    """Whether both are the same set of images; what it is called is no part of it."""
    return one.model_copy(update={"name": other.name}) == other


@lru_cache(maxsize=1)
def _digits() -> Moments:
    return digits_reference(open_extractor(EXTRACTOR.name, None, torch.device("cpu"))).moments
