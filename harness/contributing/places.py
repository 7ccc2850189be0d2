"""What may lie below the results, and where: everything else is refused by its place or its name (no torch)."""

import os
import re
import shlex
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, get_args

from harness.attachments import ENDINGS, MOST_BYTES
from harness.bench_records import Subject
from harness.contributing import pictures, strict_json
from harness.contributing.verdict import Fault
from harness.record_paths import FOLDER, OF_EVALUATION, OF_RUN, STEM

RECORD: Final = re.compile(OF_RUN)

# What belongs to the results: how its path reads, and the most bytes that it may have.
_BELONGS: Final[Mapping[str, int]] = {
    RECORD.pattern: strict_json.MOST_BYTES,
    rf"measured/{FOLDER}/{FOLDER}/{STEM}\.png": pictures.MOST_BYTES,
    **{rf"measured/{FOLDER}/{FOLDER}/{STEM}{re.escape(end)}": MOST_BYTES[kind] for kind, end in ENDINGS.items()},
    OF_EVALUATION: strict_json.MOST_BYTES,
    rf"evaluations/{STEM}{re.escape(ENDINGS['verdicts'])}": MOST_BYTES["verdicts"],
    rf"bench/({'|'.join(get_args(Subject))})/{STEM}\.json": strict_json.MOST_BYTES,
    r"published/[a-z0-9]+([.-][a-z0-9]+)*\.json": strict_json.MOST_BYTES,
    rf"withdrawn/{STEM}\.json": strict_json.MOST_BYTES,
    "LICENSE": 2**16,
    r"README\.md": 2**16,
}

# Where files lie beside records.
_WITH_COMPANY: Final = ("measured/", "evaluations/")

# What the bench itself leaves there, and git ignores: the database, and files that are being written.
_LOCAL: Final = re.compile(
    r"\.?leaderboard\.duckdb[A-Za-z0-9._-]*|(.+/)?\.[^/]+\.[0-9a-f]{8}\.part|\.probe\.[0-9a-f]{8}\.part"
)
_REMEDY: Final = "take it out: `python -m harness submit` puts each file where it belongs"
_EXECUTABLE: Final = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


@dataclass(frozen=True)
class Tree:
    """Everything below the results: the paths of `files` that belong there, and the `faults` of all others."""

    files: Sequence[str]
    faults: Sequence[Fault]


def walk(results: Path, tracked: frozenset[str] | None, committed: frozenset[str]) -> Tree:
    """Look at every name below the results, and into no file.

    `tracked` are those in git, None outside a checkout.  Of names that are alike, those that were `committed` before
    stay.
    """
    names = sorted(_names(results))
    faults = [fault for name in names for fault in _faults_of(results, name, tracked)]
    faults += _alike(sorted(names, key=lambda name: name not in committed))
    refused = {fault.path for fault in faults}
    belong = [name for name in names if name not in refused and _most_bytes(name) is not None]
    return Tree(belong, faults)


def unnamed(files: Sequence[str], named: Set[str]) -> Iterator[Fault]:
    """Pictures and attachments that no record names."""
    for name in files:
        if name.startswith(_WITH_COMPANY) and not name.endswith(".json") and name not in named:
            yield Fault(name, "place", "no record names this file", _REMEDY)


def owner_of(name: str) -> str:
    """The record that a picture or an attachment is called after; a record is its own."""
    path = PurePosixPath(name)
    if not name.startswith(_WITH_COMPANY) or path.suffix == ".json":
        return name
    return str(path.with_name(f"{path.name.split('.', 1)[0]}.json"))


def beside(name: str, ending: str) -> str:
    """The path of what lies beside a record, such as its ".png"."""
    return name.removesuffix(".json") + ending


def _names(results: Path) -> Iterator[str]:
    """Every file and link, and every folder that is empty or a link, by its path below the results."""
    for folder, folders, files in os.walk(results):
        inside = Path(folder).relative_to(results)
        yield from ((inside / file).as_posix() for file in files)
        yield from ((inside / each).as_posix() for each in folders if (Path(folder) / each).is_symlink())


def _faults_of(results: Path, name: str, tracked: frozenset[str] | None) -> Iterator[Fault]:
    told = (results / name).lstat()
    record = owner_of(name) if _most_bytes(name) is not None else name

    def fault(rule: str, problem: str, remedy: str = _REMEDY) -> Fault:
        return Fault(name, rule, problem, remedy, record)

    if stat.S_ISLNK(told.st_mode):
        yield fault("place", "it is a link: what lies elsewhere is no part of the results")
    elif not stat.S_ISREG(told.st_mode):
        yield fault("place", "it is no plain file")
    elif _LOCAL.fullmatch(name):
        if tracked is not None and name in tracked:
            yield fault("place", "it is made here and never committed")
    elif (most := _most_bytes(name)) is None:
        rule, problem = _stranger(name)
        yield fault(rule, problem)
    elif told.st_size > most:
        yield fault("size", f"it has {told.st_size:,} bytes, and may have {most:,}", "submit less, or without it")
    elif told.st_mode & _EXECUTABLE:
        remedy = f"chmod 644 {shlex.quote(str(results / name))}"
        yield fault("place", "it may be executed, and data is only read", remedy)


def _stranger(name: str) -> tuple[str, str]:
    """What is wrong with a name that nothing here has: the rule, and in words."""
    path = PurePosixPath(name)
    if not name.isascii() or not name.isprintable() or " " in name:
        return "name", "its name has characters that are easily mistaken, or not seen"
    if any(part.startswith(".") for part in path.parts):
        return "place", "it is hidden"
    if path.suffix == ".json":
        return "name", "no record is called or lies so (measured/<task>/<backbone>/<created>-<run_id>.json)"
    kind = f"a {path.suffix} file" if path.suffix else "such a file"
    return "place", f"{kind} is no record, picture or attachment"


def _most_bytes(name: str) -> int | None:
    """How large a file of this path may be, None where there is none such."""
    return next((most for pattern, most in _BELONGS.items() if re.fullmatch(pattern, name)), None)


def _alike(names: Sequence[str]) -> Iterator[Fault]:
    """Names that a file system or an eye takes for the same: all but the first are faults."""
    same: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        same[unicodedata.normalize("NFKC", name).casefold()].append(name)
    folders: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name in names:
        for parent in map(str, PurePosixPath(name).parents):
            folders[unicodedata.normalize("NFKC", parent).casefold()][parent] = None
    for group in same.values():
        for name in group[1:]:
            problem = f"its name differs from {group[0]} in case or encoding alone"
            yield Fault(name, "name", problem, "choose one of them")
    for spelled in folders.values():
        first, *others = spelled
        for folder in others:
            inside = [name for name in names if name.startswith(f"{folder}/")]
            problem = f"its folder differs from {first} in case or encoding alone"
            yield from (Fault(name, "name", problem, "choose one of them") for name in inside)
