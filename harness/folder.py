"""Find the images in a directory of class subfolders (no torch)."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError, disk_error

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass(frozen=True)
class Listing:
    """What a folder holds: classes in alphabetical order, and (path, label) of each image in a fixed order.

    `fingerprint` changes when an image is added, removed, renamed or changes its size in bytes; an edit that leaves the
    size as it was is not seen.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[tuple[Path, int], ...]
    fingerprint: str


def training_images(root: Path) -> Path:
    """Where the class folders are in a copy of ImageNet: in `train`, if it has one."""
    return root / "train" if (root / "train").is_dir() else root


def list_images(root: Path) -> Listing:
    """List `root/<class>/**/<image>`.  Links to folders inside a class are not followed; hidden files are passed over.

    Raises UserError where the folder is missing, unreadable, has no class subfolders, or a class without images.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"the data folder {root} {what}", "give --data a folder that holds one subfolder per class")
    try:
        classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
        if not classes:
            raise UserError(
                f"the data folder {root} holds no subfolders, so there are no classes",
                "put the images into one subfolder per class: DIR/cat/1.png, DIR/dog/2.png ...",
            )
        found = [(path, label) for label, name in enumerate(classes) for path in _images_below(root / name)]
        digest = hashlib.sha256(b"\n".join(map(os.fsencode, classes)))
        for path, _ in found:
            digest.update(b"\n%s %d" % (os.fsencode(path.relative_to(root)), bytes_of(path)))
    except OSError as error:
        raise disk_error(Path(error.filename or root), error) from error
    if unprintable := [name for name in classes if not name.isprintable()]:
        raise UserError(f"a class folder of {root} has a name that is no text: {unprintable[0]!r}", "rename it")
    filled = {label for _, label in found}
    if empty := [name for label, name in enumerate(classes) if label not in filled]:
        raise UserError(
            f"no images in {len(empty)} of {len(classes)} class folders of {root}: {', '.join(empty[:5])}",
            f"add images ({', '.join(sorted(IMAGE_SUFFIXES))}) or remove those folders",
        )
    return Listing(root, tuple(classes), tuple(found), digest.hexdigest()[:16])


def images_below(root: Path) -> list[Path]:
    """Every image in a folder and in those below it, in a fixed order.

    Raises UserError where the folder is missing, unreadable, or holds none.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"the data folder {root} {what}", "give --data a folder that holds images")
    try:
        found = _images_below(root)
    except OSError as error:
        raise disk_error(Path(error.filename or root), error) from error
    if not found:
        raise UserError(f"no images in {root}", f"add some: {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def bytes_of(path: Path) -> int:
    """Bytes of a file; -1 for a link that leads nowhere, which is found unreadable when it is decoded."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _images_below(folder: Path) -> list[Path]:
    found = []
    for place, subfolders, names in os.walk(folder, onerror=_raise):
        subfolders.sort()
        found += [
            Path(place, name)
            for name in sorted(names)
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return found


def _raise(error: OSError) -> None:
    raise error
