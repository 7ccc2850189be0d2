"""Make a reference of a folder of images: their moments, and the features of some of them."""

# N images, n those of a piece, M those whose features are kept, F features, S spatial features

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from harness import __version__
from harness.comparability import ReferenceIdentity
from harness.data import Labels, read_one, spread_evenly
from harness.errors import UserError
from harness.extractor import Extractor, Features, Matrix32
from harness.feature_store import arrays_of
from harness.files import write_arrays
from harness.folder import images_below
from harness.image_folders import FolderImages, names_and_sizes
from harness.image_sets import DIGEST_BYTES, Digests, image_digests, set_digest
from harness.images import Pixels
from harness.locks import alone_in
from harness.metrics.moments import MomentAccumulator
from harness.progress import Progress
from harness.prompted_images import Listed, by_prompts
from harness.references import Arrays, ReferenceManifest, keep, require_free, stem_of
from harness.stored_images import CHUNK, StoredImages

IMAGES_BETWEEN_CHECKPOINTS = 20_000
FEATURES_KEPT = 10_000
BUILDING = ".building"
LIBRARIES = ("torch", "numpy", "pillow")


@dataclass(frozen=True)
class Wanted:
    """Which images become a reference, and what it is called.

    Images are cropped as ADM does to `size` x `size`, or with `crop` "none" taken as they are; of `limit` images spread
    evenly over the folder, the features of at most `features` are kept for precision, recall and kernel distances.
    """

    folder: Path
    name: str
    split: str = "unknown"
    crop: Literal["adm", "none"] = "adm"
    size: int | None = 256
    limit: int | None = None
    features: int = FEATURES_KEPT


class CroppedImages(StoredImages):
    """Images below a folder, cropped as ADM does, whatever their size and format."""

    def __init__(self, place: Path, size: int, most: int | None) -> None:
        self.place = place
        paths = by_prompts(place, Listed(images_below(place), [])).images
        self._paths = paths if most is None else [paths[index] for index in spread_evenly(most, len(paths))]
        self.num_images, self.shape = len(self._paths), (3, size, size)

    @property
    def kind(self) -> Literal["folder"]:
        return "folder"

    def read(self, start: int, stop: int) -> Pixels:
        C, side, _ = self.shape
        with ThreadPoolExecutor() as workers:
            return np.stack(list(workers.map(lambda path: read_one(path, side, C), self._paths[start:stop])))

    def close(self) -> None:
        """Nothing is kept open."""

    def told(self) -> str:
        return names_and_sizes(self.place, self._paths)


@dataclass
class _Gathered:
    """How far a reference has come.  `digests` are those of the images so far, `features` those that are kept."""

    done: int = 0
    pooled: MomentAccumulator | None = None
    spatial: MomentAccumulator | None = None
    features: list[Matrix32] = field(default_factory=list)
    digests: list[Digests] = field(default_factory=list)


def build(
    wanted: Wanted, extractor: Extractor, references: Path, between: int = IMAGES_BETWEEN_CHECKPOINTS
) -> ReferenceManifest:
    """Build a reference and write it into the folder `references`.

    What was gathered is written down every `between` images: an interrupted building goes on from there.  Raises
    UserError where the name is taken, or an image cannot be read.
    """
    require_free(references, wanted.name, extractor.identity.name)
    images = _open(wanted)
    if images.num_images < 2:
        raise UserError(f"{wanted.folder} holds one image: that has no covariance", "give thousands")
    stem = stem_of(wanted.name, extractor.identity.name)
    place = references / BUILDING / f"{stem}-{_origin(wanted, images, extractor)}"
    with alone_in(place):
        require_free(references, wanted.name, extractor.identity.name)
        gathered = _gather(wanted, images, extractor, place / "state.npz", between)
        manifest = _keep(wanted, images, extractor, gathered, references)
    shutil.rmtree(place, ignore_errors=True)
    return manifest


def _open(wanted: Wanted) -> StoredImages:
    if wanted.crop == "none":
        return FolderImages(wanted.folder, wanted.limit)
    if wanted.size is None:
        raise UserError("a crop needs a size", "say --size 256, or --crop none for images that are cropped already")
    return CroppedImages(wanted.folder, wanted.size, wanted.limit)


def _origin(wanted: Wanted, images: StoredImages, extractor: Extractor) -> str:
    """Twelve digits that change where what was gathered so far could not be gone on with."""
    said = [images.told(), images.shape, wanted.features, extractor.identity.model_dump()]
    return hashlib.sha256(json.dumps(said).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _gather(wanted: Wanted, images: StoredImages, extractor: Extractor, state: Path, between: int) -> _Gathered:
    gathered = _load(state) if state.exists() else _Gathered()
    chosen = spread_evenly(wanted.features, images.num_images)
    saved = gathered.done
    with Progress(f"reference {wanted.name}", images.num_images, gathered.done) as progress:
        while gathered.done < images.num_images:
            start, stop = gathered.done, min(gathered.done + CHUNK, images.num_images)
            pixels = images.read(start, stop)
            rows = chosen[(chosen >= start) & (chosen < stop)] - start
            _take_in(gathered, extractor.extract(pixels), rows)
            gathered.digests.append(image_digests(pixels))
            gathered.done = stop
            if stop - saved >= between:
                _save(gathered, state)
                saved = stop
            progress.advance(stop - start)
    return gathered


def _take_in(gathered: _Gathered, features: Features, rows: Labels) -> None:
    if gathered.pooled is None:
        gathered.pooled = MomentAccumulator(features.pooled.shape[1])
    gathered.pooled.add(features.pooled)
    if features.spatial is not None:
        if gathered.spatial is None:
            gathered.spatial = MomentAccumulator(features.spatial.shape[1])
        gathered.spatial.add(features.spatial)
    gathered.features.append(features.pooled[rows])


def _save(gathered: _Gathered, state: Path) -> None:
    assert gathered.pooled is not None, "nothing gathered yet"
    held: dict[str, npt.NDArray[Any]] = {
        "features": np.concatenate(gathered.features),
        "digests": np.concatenate(gathered.digests),
    }
    for name, part in (("pooled", gathered.pooled), ("spatial", gathered.spatial)):
        if part is not None:
            held |= {f"{name}_mean": part.mean, f"{name}_scatter": part.scatter}
    write_arrays(state, held)


def _load(state: Path) -> _Gathered:
    with arrays_of(state) as held:
        digests = held["digests"].reshape(-1, DIGEST_BYTES)
        parts = {
            name: _accumulator(held, name, len(digests)) for name in ("pooled", "spatial") if f"{name}_mean" in held
        }
        return _Gathered(len(digests), features=[held["features"]], digests=[digests], **parts)


def _accumulator(held: NpzFile, name: str, count: int) -> MomentAccumulator:
    mean = held[f"{name}_mean"]
    part = MomentAccumulator(len(mean))
    part.count, part.mean, part.scatter = count, mean, np.asfortranarray(held[f"{name}_scatter"])
    return part


def _keep(
    wanted: Wanted, images: StoredImages, extractor: Extractor, gathered: _Gathered, references: Path
) -> ReferenceManifest:
    assert gathered.pooled is not None, "nothing was gathered"
    pooled, spatial = gathered.pooled.moments(), gathered.spatial.moments() if gathered.spatial else None
    features = np.concatenate(gathered.features)
    C, H, W = images.shape
    return keep(
        references,
        ReferenceManifest(
            reference=ReferenceIdentity(
                name=wanted.name,
                sha256=set_digest(np.concatenate(gathered.digests)),
                split=wanted.split,
                num_images=images.num_images,
                crop=f"{wanted.crop} {W}x{H}" if wanted.crop == "adm" else "none",
            ),
            extractor=extractor.identity,
            kind="built",
            width=pooled.width,
            spatial_width=spatial.width if spatial else 0,
            num_features=len(features),
            source=f"{wanted.folder.name}: {C} x {H} x {W}",
            created=datetime.now(UTC),
            versions=versions(),
            notes=images.notes,
        ),
        Arrays(
            pooled.mean,
            pooled.covariance,
            None if spatial is None else spatial.mean,
            None if spatial is None else spatial.covariance,
            features,
        ),
    )


def versions() -> dict[str, str]:
    """What code makes references."""
    return {"dsr-bench": __version__} | {name: metadata.version(name) for name in LIBRARIES}
