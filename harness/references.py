"""Sets that images are compared with: where they lie, what they are, and whether they still are that (no torch)."""

# F features, S spatial features, M images whose features are kept

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from harness.comparability import UNKNOWN, ExtractorIdentity, ReferenceIdentity
from harness.digits_judge import REFERENCE as DIGITS
from harness.errors import UserError, disk_error, unknown_name
from harness.files import sha256_of, write_arrays, write_text
from harness.frozen import Frozen, NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOMENTS = ("mean", "covariance", "spatial_mean", "spatial_covariance")
HOW_TO_MAKE = "`python -m harness refs build DIR --name NAME --extractor inception-clean`, or `refs import FILE.npz`"


class ReferenceManifest(Frozen):
    """What a reference is.  Its arrays lie beside it: `files` are their names with the SHA-256 of their bytes.

    `kind` says how it came about; of an imported one the `extractor` is what somebody declared, "unknown" where they
    did not say.  `width` is F, `spatial_width` S or 0, `num_features` M or 0.
    """

    schema_version: Literal[1] = 1
    reference: ReferenceIdentity
    extractor: ExtractorIdentity
    kind: Literal["built", "adm", "torch-fidelity", "clean-fid"]
    width: PositiveInt
    spatial_width: NonNegativeInt = 0
    num_features: NonNegativeInt = 0
    files: dict[str, str] = Field(default_factory=dict)
    source: str
    created: datetime
    versions: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def is_declared(self) -> bool:
        """Whether nobody here saw the extractor at work."""
        return self.kind != "built"

    @property
    def stem(self) -> str:
        """What its files are called, but for their endings."""
        return stem_of(self.reference.name, self.extractor.name)


@dataclass(frozen=True)
class Arrays:
    """The numbers of a reference: float64 moments, and float32 features of M of its images where they are kept.

    `mean` is (F,), `covariance` (F, F), of spatial features (S,) and (S, S); `features` are (M, F).
    """

    mean: "npt.NDArray[np.float64]"
    covariance: "npt.NDArray[np.float64]"
    spatial_mean: "npt.NDArray[np.float64] | None" = None
    spatial_covariance: "npt.NDArray[np.float64] | None" = None
    features: "npt.NDArray[np.float32] | None" = None


@dataclass(frozen=True)
class Checked:
    """One reference as `verify` found it; `problem` is empty where its files are what the manifest says."""

    manifest: ReferenceManifest
    problem: str = ""


def stem_of(name: str, extractor: str) -> str:
    """NAME.EXTRACTOR, as it can be a file's name."""
    return f"{name}.{extractor.replace('/', '--')}"


def list_references(folder: Path) -> list[ReferenceManifest]:
    """All that lie in a folder, by name; none where there is no such folder.  Raises UserError for a damaged one."""
    return [read_manifest(path) for path in sorted(folder.glob("*.json"))]


def find(folder: Path, name: str) -> list[ReferenceManifest]:
    """The references that a person means: NAME with every extractor there is, or NAME.EXTRACTOR with one.

    Raises UserError where there is none, with the names that there are.
    """
    known = list_references(folder)
    found = [manifest for manifest in known if name in (manifest.reference.name, manifest.stem)]
    if found:
        return found
    if not known:
        raise UserError(f"there is no reference named {name!r}: {folder} holds none", HOW_TO_MAKE)
    problem = unknown_name("reference", name, sorted({manifest.reference.name for manifest in known}))
    raise UserError(problem.problem, f"{problem.remedy}\n  -> {HOW_TO_MAKE}")


def read_manifest(path: Path) -> ReferenceManifest:
    """One manifest.  Raises UserError where it is none."""
    try:
        manifest = ReferenceManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} describes no reference: {place}: {first['msg']}", "build or import it anew") from error
    except OSError as error:
        raise disk_error(path, error) from error
    if path.stem != manifest.stem:
        raise UserError(f"{path} describes {manifest.stem}: it was renamed", f"call it {manifest.stem}.json again")
    return manifest


def require_free(folder: Path, name: str, extractor: str) -> None:
    """Raise UserError unless a new reference may take this name."""
    if name == DIGITS.name or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise UserError(
            f"a reference cannot be called {name!r}" + (": that one is built in" if name == DIGITS.name else ""),
            "use letters, digits, - and _, such as imagenet256-train",
        )
    manifest = folder / f"{stem_of(name, extractor)}.json"
    if manifest.exists():
        raise UserError(f"{manifest} exists already, and references are never overwritten", "choose another --name")


def keep(folder: Path, manifest: ReferenceManifest, arrays: Arrays) -> ReferenceManifest:
    """Write a reference: its arrays first, its manifest last.  Returns the manifest with their digests."""
    from harness.files import write_array

    moments = folder / f"{manifest.stem}.npz"
    held = {name: getattr(arrays, name) for name in MOMENTS if getattr(arrays, name) is not None}
    write_arrays(moments, held)
    files = [moments]
    if arrays.features is not None:
        files.append(folder / f"{manifest.stem}.features.npy")
        write_array(files[-1], arrays.features)
    whole = manifest.model_copy(update={"files": {file.name: sha256_of(file) for file in files}})
    whole = ReferenceManifest.model_validate_json(whole.model_dump_json())
    write_text(folder / f"{manifest.stem}.json", whole.model_dump_json(indent=1) + "\n")
    return whole


def load(folder: Path, manifest: ReferenceManifest) -> Arrays:
    """The arrays of a reference, the features mapped from disk.

    Raises UserError where a file is missing, or is not the one that the manifest tells of.
    """
    import numpy as np

    from harness.files import read_array

    if problem := _problem(folder, manifest):
        raise UserError(f"the reference {manifest.stem} is not what it was: {problem}", "build or import it anew")
    with np.load(folder / f"{manifest.stem}.npz", allow_pickle=False) as held:
        moments = {name: held[name] for name in held.files}
    features = f"{manifest.stem}.features.npy"
    return Arrays(
        **moments, features=read_array(folder / features, mapped=True) if features in manifest.files else None
    )


def verify(folder: Path, name: str | None) -> list[Checked]:
    """Every file of one reference, or of all, hashed again."""
    manifests = list_references(folder) if name is None else find(folder, name)
    return [Checked(manifest, _problem(folder, manifest)) for manifest in manifests]


def require_same_extractor(manifest: ReferenceManifest, extractor: ExtractorIdentity) -> None:
    """Raise UserError where a reference was made by another extractor; what was never declared is not compared."""
    theirs, ours = manifest.extractor.model_dump(), extractor.model_dump()
    different = [
        f"{field.replace('_', ' ')}: {theirs[field]} there, {ours[field]} here"
        for field in ours
        if theirs[field] != ours[field] and not (manifest.is_declared and theirs[field] == UNKNOWN)
    ]
    if different:
        raise UserError(
            f"the reference {manifest.stem} was made by another extractor: {'; '.join(different)}",
            "features of two extractors cannot be compared: build the reference with this one",
        )


def statistics_digest(arrays: Arrays) -> str:
    """SHA-256 of the moments, spatial ones too: the identity of a reference whose images nobody has."""
    digest = hashlib.sha256()
    for array in (arrays.mean, arrays.covariance, arrays.spatial_mean, arrays.spatial_covariance):
        if array is not None:
            digest.update(f"{array.shape}".encode() + array.astype("<f8").tobytes())
    return digest.hexdigest()


def _problem(folder: Path, manifest: ReferenceManifest) -> str:
    for name, expected in manifest.files.items():
        if not (folder / name).exists():
            return f"{name} is missing"
        if sha256_of(folder / name) != expected:
            return f"{name} has changed since it was written"
    return ""
