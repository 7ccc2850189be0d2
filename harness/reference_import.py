"""Take over statistics that others published: ADM's, those for torch-fidelity (JiT's), clean-fid's."""

# F features, S spatial features, M images

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harness.comparability import UNKNOWN, ExtractorIdentity, ReferenceIdentity
from harness.data import spread_evenly
from harness.errors import UserError, disk_error
from harness.extractor import Extractor, Matrix32
from harness.extractors import find
from harness.files import sha256_of
from harness.image_arrays import IMAGES, ArrayImages
from harness.metric_definitions import is_inception
from harness.metrics.moments import moments
from harness.progress import Progress
from harness.reference_building import FEATURES_KEPT, versions
from harness.references import Arrays, ReferenceManifest, keep, require_free, statistics_digest
from harness.stored_images import chunks

Kind = Literal["adm", "torch-fidelity", "clean-fid"]
MEANT_FOR: Mapping[Kind, str] = {
    "adm": "inception-legacy-tensorflow",
    "torch-fidelity": "inception-torch-fidelity",
    "clean-fid": "inception-clean",
}
MEAN, COVARIANCE, SPATIAL_MEAN, SPATIAL_COVARIANCE, FEATURES = "mu", "sigma", "mu_s", "sigma_s", "feats"
KERNEL_FILE = "_kid.npz"
# What an Inception extractor sees: pool_3, and seven channels of mixed_6 at 17 x 17 positions.
INCEPTION_WIDTH, INCEPTION_SPATIAL_WIDTH = 2048, 7 * 17 * 17
TOLERANCE = 1e-4
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError)

Open = Callable[[str], Extractor]


@dataclass(frozen=True)
class Published:
    """A file of statistics, and what the person who imports it says of it.

    `extractor` is the one of ours that sees as the one that made it; None for that which the kind is meant for.
    """

    file: Path
    kind: Kind
    name: str
    split: str = UNKNOWN
    extractor: str | None = None
    features: int = FEATURES_KEPT


def import_statistics(published: Published, references: Path, open_extractor: Open) -> ReferenceManifest:
    """Write a reference that holds the file's mean and covariance as they are.

    Moments are never computed from images that lie in ADM's file: those are a sample for precision and recall, and
    their features are extracted here where the weights are at hand.  Raises UserError where the file is none of its
    kind, its statistics are impossible, nobody knows the extractor, it sees other features, or the name is taken.
    """
    extractor = find(published.extractor or MEANT_FOR[published.kind]).name
    require_free(references, published.name, extractor)
    arrays, num_images = _read(published)
    _require_inception(published.file, extractor, arrays)
    identity = ExtractorIdentity(name=extractor, version=UNKNOWN, weights_sha256=UNKNOWN)
    notes = [f"declared, not seen here: that {extractor} sees as what made these statistics"]
    if published.kind == "adm" and _holds(published.file, IMAGES):
        seen, note = _features(published, extractor, open_extractor)
        notes.append(note)
        if seen is not None:
            identity, features = seen
            arrays = replace(arrays, features=features)
            _require_width(published, arrays)
    manifest = ReferenceManifest(
        reference=ReferenceIdentity(
            name=published.name,
            sha256=statistics_digest(arrays),
            split=published.split,
            num_images=num_images,
            crop="adm" if published.kind == "adm" else UNKNOWN,
        ),
        extractor=identity,
        kind=published.kind,
        width=len(arrays.mean),
        spatial_width=0 if arrays.spatial_mean is None else len(arrays.spatial_mean),
        num_features=0 if arrays.features is None else len(arrays.features),
        source=f"{published.file.name}, SHA-256 {sha256_of(published.file)}",
        created=datetime.now(UTC),
        versions=versions(),
        notes=tuple(notes),
    )
    return keep(references, manifest, arrays)


def _read(published: Published) -> tuple[Arrays, int | None]:
    """The statistics, and of how many images they are, None where the file does not say."""
    held = _arrays(published.file)
    beside = published.file.with_name(published.file.stem + KERNEL_FILE)
    if published.kind == "clean-fid" and FEATURES not in held and beside.exists():
        held |= _arrays(beside)
    features = _features_in(published.file, held)
    if MEAN in held and COVARIANCE in held:
        mean, covariance = held[MEAN], held[COVARIANCE]
    elif features is not None:
        found = moments(features)
        mean, covariance = found.mean, found.covariance
    else:
        raise UserError(
            f"{published.file} holds no {MEAN} and {COVARIANCE}, but {', '.join(held) or 'nothing'}",
            "give the file of statistics itself; `refs build` makes a reference of images",
        )
    arrays = Arrays(*_checked(published.file, mean, covariance))
    if SPATIAL_MEAN in held and SPATIAL_COVARIANCE in held:
        mean, covariance = _checked(published.file, held[SPATIAL_MEAN], held[SPATIAL_COVARIANCE])
        arrays = replace(arrays, spatial_mean=mean, spatial_covariance=covariance)
    if features is not None:
        arrays = replace(arrays, features=features[spread_evenly(published.features, len(features))])
    _require_width(published, arrays)
    return arrays, None if features is None else len(features)


def _arrays(file: Path) -> dict[str, npt.NDArray[Any]]:
    """The statistics in a file, without pickle, and without reading its images.  All of them are numbers."""
    names = (MEAN, COVARIANCE, SPATIAL_MEAN, SPATIAL_COVARIANCE, FEATURES)
    try:
        # numpy takes other files too, for one array or for pickles.
        zipfile.ZipFile(file).close()
        with np.load(file, allow_pickle=False) as held:
            arrays = {name: np.asarray(held[name]) for name in names if name in held}
    except OSError as error:
        raise disk_error(file, error) from error
    except DAMAGED as error:
        raise UserError(f"{file} is damaged, or no .npz of plain numbers: {error}", "fetch it again") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not array.size:
            raise _no_statistics(file, f"{name} is {array.dtype} {array.shape}")
    return arrays


def _holds(file: Path, name: str) -> bool:
    with zipfile.ZipFile(file) as archive:
        return f"{name}.npy" in archive.namelist()


def _features_in(file: Path, held: Mapping[str, npt.NDArray[Any]]) -> Matrix32 | None:
    """The features in a file, None where it has none.  Raises UserError for what can be no features."""
    if FEATURES not in held:
        return None
    features: Matrix32 = held[FEATURES].astype(np.float32)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise UserError(f"{file} holds no features (M, F) that are finite, but {features.shape}", "fetch it again")
    return features


def _checked(
    file: Path, mean: npt.NDArray[Any], covariance: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """In float64, the covariance made symmetric to the last bit.  Raises UserError for what can be no moments."""
    mean, covariance = np.atleast_1d(np.squeeze(mean)).astype(np.float64), covariance.astype(np.float64)
    width = len(mean)
    fits = mean.shape == (width,) and covariance.shape == (width, width)
    if not fits or not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise _no_statistics(file, f"{mean.shape} and {covariance.shape}")
    largest = np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > TOLERANCE * largest or np.diagonal(covariance).min() < 0:
        raise UserError(f"the matrix in {file} is no covariance: not symmetric, or negative", "fetch it again")
    return mean, (covariance + covariance.T) / 2


def _no_statistics(file: Path, but: str) -> UserError:
    return UserError(f"{file} holds no mean (F,) and covariance (F, F) that are finite, but {but}", "fetch it again")


def _require_inception(file: Path, extractor: str, arrays: Arrays) -> None:
    """Raise UserError for statistics that no Inception can have given, where one is said to have."""
    wanted, widths = [INCEPTION_WIDTH], [len(arrays.mean)]
    if arrays.spatial_mean is not None:
        wanted, widths = [*wanted, INCEPTION_SPATIAL_WIDTH], [*widths, len(arrays.spatial_mean)]
    if is_inception(extractor) and widths != wanted:
        raise UserError(
            f"{file} has statistics of {' and '.join(map(str, widths))} features, and {extractor} sees "
            f"{' and '.join(map(str, wanted))}",
            "name the extractor that made them: --extractor",
        )


def _require_width(published: Published, arrays: Arrays) -> None:
    if arrays.features is not None and arrays.features.shape[1:] != arrays.mean.shape:
        raise UserError(
            f"{published.file} has statistics of {len(arrays.mean)} features, and features of {arrays.features.shape}",
            "name the extractor that made them: --extractor",
        )


def _features(
    published: Published, name: str, open_extractor: Open
) -> tuple[tuple[ExtractorIdentity, Matrix32] | None, str]:
    """What our extractor sees in the images of ADM's file, and a note; None where its weights are not here."""
    try:
        extractor = open_extractor(name)
    except UserError as error:
        return None, f"no precision, recall or KID with this reference: {error.problem}"
    with ArrayImages(published.file, IMAGES) as images, Progress("features", images.num_images) as progress:
        chosen = spread_evenly(published.features, images.num_images)
        pieces = []
        for start, stop in chunks(images.num_images):
            rows = chosen[(chosen >= start) & (chosen < stop)] - start
            if len(rows):
                pieces.append(extractor.extract(images.read(start, stop)[rows]).pooled)
            progress.advance(stop - start)
    features = np.concatenate(pieces)
    return (extractor.identity, features), f"features for precision and recall: of {len(features):,} images in the file"
