"""The moments that a run's images were judged by, as a file: whoever has it can compute the run's distances again."""

# F features

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from harness.attachments import Attachment, Tensors, attach, read_tensors
from harness.comparability import ExtractorIdentity, GuidanceUsed
from harness.errors import UserError
from harness.frozen import Frozen, PositiveInt
from harness.metrics.moments import Matrix, Moments

SAID = "moments"
# Of all variances together: what rounding may leave below zero where features do not fill their space.
ROUNDING = 1e-10

FeatureKind = Literal["pooled", "spatial"]


class Described(Frozen):
    """Whose moments these are: of so many images, sampled with this guidance, in this extractor's eyes."""

    extractor: ExtractorIdentity
    kind: FeatureKind
    guidance: GuidanceUsed
    count: PositiveInt

    def words(self) -> str:
        """For a person: "inception-clean, spatial features, classifier-free 1.5 (untuned)"."""
        return ", ".join(filter(None, [self.extractor.name, f"{self.kind} features", self.guidance.words()]))


_DESCRIPTIONS: TypeAdapter[list[Described]] = TypeAdapter(list[Described])


@dataclass(frozen=True)
class JudgedMoments:
    """Moments, and whose they are."""

    described: Described
    moments: Moments

    @property
    def size(self) -> int:
        """The bytes that they take in the file."""
        width = self.moments.width
        return 8 * (width + width * (width + 1) // 2)


def write_moments(path: Path, judged: Sequence[JudgedMoments]) -> Attachment | None:
    """Write all moments of a run, and return what its record says of the file; None, and no file, where there are none.

    Entry i of the metadata describes the tensors `i.mean` (F,) and `i.covariance`, the covariance's lower triangle row
    by row, F (F + 1) / 2 numbers, both float64.  The same moments give the same bytes.
    """
    if not judged:
        return None
    arrays: dict[str, Matrix] = {}
    for index, each in enumerate(judged):
        rows, columns = np.tril_indices(each.moments.width)
        arrays[f"{index}.mean"] = each.moments.mean
        arrays[f"{index}.covariance"] = each.moments.covariance[rows, columns]
    descriptions = [each.described.model_dump(mode="json") for each in judged]
    return attach(path, arrays, (SAID, json.dumps(descriptions, sort_keys=True)))


def read_moments(path: Path, attachment: Attachment) -> list[JudgedMoments]:
    """The moments that `write_moments` wrote.

    Raises UserError where the file is not the one that the record names, or holds anything but finite means and
    covariances of the stated features.
    """
    tensors = read_tensors(path, attachment)
    described = _descriptions(path, tensors)
    wanted = {f"{index}.{part}" for index in range(len(described)) for part in ("mean", "covariance")}
    if set(tensors.arrays) != wanted:
        raise _refused(path, "its tensors are not those that its metadata describes")
    return [JudgedMoments(each, _moments(path, tensors, index, each)) for index, each in enumerate(described)]


def _descriptions(path: Path, tensors: Tensors) -> list[Described]:
    if set(tensors.metadata) != {SAID}:
        raise _refused(path, f"its metadata has to be one entry, {SAID!r}")
    try:
        described = _DESCRIPTIONS.validate_json(tensors.metadata[SAID])
    except ValidationError as error:
        first = error.errors()[0]
        raise _refused(path, f"its metadata: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    known = {(each.extractor.model_dump_json(), each.kind, each.guidance.model_dump_json()) for each in described}
    if len(known) < len(described):
        raise _refused(path, "it describes the same features twice")
    return described


def _moments(path: Path, tensors: Tensors, index: int, described: Described) -> Moments:
    mean_F, packed = tensors.arrays[f"{index}.mean"], tensors.arrays[f"{index}.covariance"]
    if mean_F.dtype != np.float64 or packed.dtype != np.float64:
        raise _refused(path, f"the moments of {described.words()} are not float64")
    width = mean_F.size
    if mean_F.ndim != 1 or packed.shape != (width * (width + 1) // 2,) or not width:
        raise _refused(path, f"the shapes of {described.words()} are not those of a mean and half of its covariance")
    if not (np.isfinite(mean_F).all() and np.isfinite(packed).all()):
        raise _refused(path, f"the moments of {described.words()} are not finite")
    rows, columns = np.tril_indices(width)
    covariance_FF = np.empty((width, width))
    covariance_FF[rows, columns] = packed
    covariance_FF[columns, rows] = packed
    if not _is_covariance(covariance_FF):
        raise _refused(path, f"the covariance of {described.words()} has negative variances: no images give it")
    return Moments(described.count, mean_F, covariance_FF)


def _is_covariance(covariance_FF: Matrix) -> bool:
    """Whether it is positive semidefinite, to rounding: Cholesky's factor exists of it and a little more."""
    slack = max(ROUNDING * float(np.trace(covariance_FF)), float(np.finfo(np.float64).tiny))
    try:
        np.linalg.cholesky(covariance_FF + slack * np.eye(len(covariance_FF)))
    except np.linalg.LinAlgError:
        return False
    return True


def _refused(path: Path, reason: str) -> UserError:
    return UserError(f"{path} holds no moments: {reason}", "bring back the file that the run wrote")
