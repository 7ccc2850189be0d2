"""From a name to a backbone: the folder baselines/ is the registry, and a file elsewhere may be named with its path."""

import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import baselines
from harness import third_party
from harness.backbone import Backbone
from harness.errors import UserError, unknown_name
from harness.spec import RunConfig, ThirdParty
from harness.third_party import ThirdPartyFile

LONGEST_NAME = 40
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Named:
    """What a name says: a backbone, its size or None, and for a third party's the file, absolute, with its digest."""

    backbone: Backbone
    size: str | None
    file: Path | None = None
    third_party: ThirdParty | None = None


def families() -> list[str]:
    """The families that there are, one public file in baselines/ each: `rae_dit.py` is `rae-dit`."""
    modules = (module.name for module in pkgutil.iter_modules(baselines.__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def folder() -> Path:
    """Where the files of the families are."""
    return Path(baselines.__path__[0])


def file_of(family: str) -> Path:
    """The file of a family.  Raises UserError for a name without one."""
    return Path(str(_module_of(family).__file__))


def find(family: str) -> Backbone:
    """The backbone of a family.  Only its file is imported; raises UserError for a name without a file."""
    module = _module_of(family)
    backbone = module.BACKBONE
    assert isinstance(backbone, Backbone), f"{module.__name__}: BACKBONE is no Backbone"
    assert backbone.name == family, f"{module.__name__} calls itself {backbone.name}"
    return backbone


def named(name: str) -> Named:
    """What `sit`, `sit-xl-2`, `path/to/file.py`, `path/to/file.py:mine` or `path/to/file.py:mine-tiny` stands for.

    Raises UserError for a name or size that there is not, and a file as `third_party.read` does.
    """
    address = third_party.address_in(name)
    if address is not None:
        return _in_file(_read(address.file), address.name)
    known = families()
    family = _family_in(name, known)
    if family is None:
        raise unknown_name("backbone", name, [*known, *_exact_names(map(find, known))])
    return _sized(Named(find(family), None), name)


def backbone_of(config: RunConfig) -> Backbone:
    """The backbone of a resolved run.

    Raises UserError where it came from a third party's file that is not here, or is another by now.
    """
    if config.third_party is None:
        return find(config.backbone)
    wanted, file = config.third_party, config.execution.backbone_file
    if file is None:
        raise UserError(
            f"the backbone {config.backbone} of this run came from a third party's file, {wanted.file}",
            f"say where that is: --set execution.backbone_file=path/to/{wanted.file}",
        )
    found = _read(Path(file))
    if found.identity.sha256 != wanted.sha256:
        raise UserError(
            f"{file} is no longer the file that this run was begun with",
            "bring it back as it was, or give the `run` command again: another file makes another run",
        )
    return found.backbones[config.backbone]


def require_new_name(name: str) -> None:
    """Raise UserError for a name that no family can have, or that would be taken for one that there is."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise UserError(
            f"{name!r} cannot name a backbone",
            f"use small letters and digits, with dashes between words, {LONGEST_NAME} at most: my-net",
        )
    for family in families():
        if name == family:
            raise UserError(f"{name} is a backbone of this repository", "choose another name")
        if name.startswith(f"{family}-") or family.startswith(f"{name}-"):
            raise UserError(
                f"{name} would be taken for a backbone of this repository, {family}: sizes follow a dash",
                "choose a name that begins otherwise",
            )


def _module_of(family: str) -> ModuleType:
    known = families()
    if family not in known:
        raise unknown_name("backbone", family, known)
    return importlib.import_module(f"baselines.{family.replace('-', '_')}")


def _read(file: Path) -> ThirdPartyFile:
    """A third party's file, its own backbones alone: it may import ours, and build on them."""
    found = third_party.read(file)
    own = {name: each for name, each in found.backbones.items() if not _is_ours(each)}
    if not own:
        raise UserError(f"{file} defines no Backbone of its own", "make one: dataclasses.replace(BACKBONE, name=...)")
    for name in own:
        require_new_name(name)
    only = next(iter(own.values())) if len(own) == 1 else None
    main = found.main if found.main in own.values() else only
    return ThirdPartyFile(found.path, found.identity, own, main)


def _is_ours(backbone: Backbone) -> bool:
    return backbone.name in families() and find(backbone.name) is backbone


def _in_file(found: ThirdPartyFile, name: str) -> Named:
    if not name:
        if found.main is None:
            raise UserError(
                f"{found.path} defines several backbones: {', '.join(sorted(found.backbones))}",
                f"name one: {found.path.name}:{min(found.backbones)}",
            )
        return Named(found.main, None, found.path, found.identity)
    family = _family_in(name, found.backbones)
    if family is None:
        raise unknown_name(f"backbone in {found.path}", name, _known_in(found.backbones))
    return _sized(Named(found.backbones[family], None, found.path, found.identity), name)


def _family_in(name: str, known: Iterable[str]) -> str | None:
    """The longest of the families that a name begins with."""
    return max((each for each in known if name == each or name.startswith(f"{each}-")), key=len, default=None)


def _sized(found: Named, name: str) -> Named:
    size = name[len(found.backbone.name) + 1 :] or None
    if size is not None:
        found.backbone.size(size)
    return Named(found.backbone, size, found.file, found.third_party)


def _known_in(backbones: Mapping[str, Backbone]) -> list[str]:
    return [*backbones, *_exact_names(backbones.values())]


def _exact_names(backbones: Iterable[Backbone]) -> list[str]:
    return [f"{backbone.name}-{size}" for backbone in backbones for size in backbone.sizes]
