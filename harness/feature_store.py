"""Features of many images, kept piece by piece on disk: what was extracted once is never extracted again."""

# N images, n images of a piece, F features of any kind

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.lib.npyio import NpzFile

from harness.distributed import ALONE, World
from harness.errors import UserError, disk_error
from harness.extractor import Extractor, Features, Matrix32
from harness.files import read_array, sweep_parts, write_arrays, write_whole
from harness.image_sets import Digests, image_digests
from harness.progress import Progress
from harness.stored_images import StoredImages, chunks

Kind = Literal["pooled", "spatial", "probabilities"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DAMAGED = (ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class StoredFeatures:
    """The features of N images, in their order.  No method holds more than one piece in memory."""

    folder: Path
    files: tuple[Path, ...]
    num_images: int

    def has(self, kind: Kind) -> bool:
        """Whether the extractor gave features of this kind."""
        return kind in _read(self.files[0])

    def width(self, kind: Kind) -> int:
        """F."""
        return int(_read(self.files[0], kind)[kind].shape[1])

    def pieces(self, kind: Kind) -> Iterator[Matrix32]:
        """The features of consecutive images, (n, F) each."""
        for file in self.files:
            yield _read(file, kind)[kind]

    def whole(self, kind: Kind) -> Matrix32:
        """All of one kind, (N, F), mapped from a file that is written when it is first asked for."""
        names = "\n".join(file.name for file in self.files)
        path = self.folder / f"{kind}-{hashlib.sha256(names.encode()).hexdigest()[:24]}.npy"
        if not path.exists():
            write_whole(path, lambda part: self._write_whole(kind, part))
        return read_array(path, mapped=True)

    def _write_whole(self, kind: Kind, part: Path) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.num_images, self.width(kind))}
        with part.open("wb") as out:
            np.lib.format.write_array_header_1_0(out, header)
            for piece_nF in self.pieces(kind):
                out.write(piece_nF.astype("<f4").tobytes())


def extract_all(
    stored: StoredImages, digests_ND: Digests, extractor: Extractor, folder: Path, world: World = ALONE
) -> StoredFeatures:
    """Extract the features of all images into `folder`; an interrupted extraction goes on with the next piece.

    A piece is named after its images, so that no other images' features are ever taken for theirs.  Only one world may
    fill a folder: its processes share the pieces, each shows how far its own share is, and all get all pieces, in the
    images' order.  Raises UserError where an image is no longer what it was when the digests were taken.
    """
    pieces = [_Piece(start, stop, _file(folder, digests_ND[start:stop])) for start, stop in chunks(stored.num_images)]
    missing = world.by_first(lambda: _missing(pieces, folder))
    mine = [missing[index] for index in world.share(len(missing))]
    done = len(world.share(stored.num_images - sum(map(len, missing))))
    with Progress(f"features of {extractor.identity.name}", done + sum(map(len, mine)), done) as progress:
        for piece in mine:
            pixels = stored.read(piece.start, piece.stop)
            if not np.array_equal(image_digests(pixels), digests_ND[piece.start : piece.stop]):
                raise UserError(
                    f"images of {stored.place} changed while they were evaluated",
                    "run it again when they are still",
                )
            _keep(extractor.extract(pixels), piece.file)
            progress.advance(len(piece))
    world.wait()
    return StoredFeatures(folder, tuple(piece.file for piece in pieces), stored.num_images)


@contextmanager
def arrays_of(file: Path) -> Iterator[NpzFile]:
    """The arrays of an `.npz` file that was made on the way, read without pickle while this is open.

    Raises UserError where it is damaged, or lacks what is asked of it.
    """
    try:
        held = np.load(file, allow_pickle=False)
        if not isinstance(held, NpzFile):
            raise zipfile.BadZipFile("it is no .npz file")
        with held:
            yield held
    except OSError as error:
        raise disk_error(file, error) from error
    except DAMAGED as error:
        raise UserError(f"{file} is damaged: {error}", "delete it: the same command makes it again") from error


@dataclass(frozen=True)
class _Piece:
    """The images start .. stop - 1, whose features are in `file`."""

    start: int
    stop: int
    file: Path

    def __len__(self) -> int:
        return self.stop - self.start


def _file(folder: Path, digests_nD: Digests) -> Path:
    return folder / f"{hashlib.sha256(digests_nD.tobytes()).hexdigest()[:24]}.npz"


def _missing(pieces: list[_Piece], folder: Path) -> list[_Piece]:
    """The pieces that are still to be made: the folder is listed, as in sampling."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep_parts(folder)
    known = set(folder.iterdir())
    return [piece for piece in pieces if piece.file not in known]


def _keep(features: Features, file: Path) -> None:
    held: dict[str, Matrix32] = {kind: getattr(features, kind) for kind in KINDS if getattr(features, kind) is not None}
    write_arrays(file, held)


def _read(file: Path, *kinds: Kind) -> dict[str, Matrix32]:
    """What a piece holds of these kinds; without any, what kinds it holds."""
    with arrays_of(file) as held:
        return {kind: held[kind] if kinds else np.empty(0, np.float32) for kind in kinds or held.files}
