"""Read the backbones in one file that is no part of this repository (no torch, unless that file imports it)."""

import ast
import functools
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from harness.backbone import Backbone
from harness.errors import UserError, disk_error
from harness.spec import ThirdParty

OURS = ("harness", "baselines", "dsr")
MAIN = "BACKBONE"
_ADDRESS = re.compile(r"(?P<file>.+\.py)(?::(?P<name>.*))?")


@dataclass(frozen=True)
class Address:
    """`path/to/file.py:name` in its two parts; the name is empty where it was left out."""

    file: Path
    name: str


@dataclass(frozen=True)
class ThirdPartyFile:
    """What a file holds: its backbones by their names, and the one called BACKBONE, or the only one, as `main`."""

    path: Path
    identity: ThirdParty
    backbones: Mapping[str, Backbone]
    main: Backbone | None


def address_in(text: str) -> Address | None:
    """The file that a `--backbone` names; None where it is a name of this repository's."""
    matched = _ADDRESS.fullmatch(text)
    return matched and Address(Path(matched["file"]).expanduser().absolute(), matched["name"] or "")


def read(path: Path) -> ThirdPartyFile:
    """Run a file, and take the backbones that it defines or imports; what runs is what its digest is of.

    Raises UserError for a file that is not there, is no Python, imports what is not here or lies beside it, or holds
    no backbone.  Any other exception is the file's own, and keeps its traceback.
    """
    content = _content(path)
    module = _run(path, content)
    found = {id(each): each for each in vars(module).values() if isinstance(each, Backbone)}.values()
    backbones = {each.name: each for each in found}
    if not backbones:
        raise UserError(
            f"{path} defines no Backbone",
            f"give it {MAIN} = Backbone(...), or begin with one that runs: python -m harness new NAME --local FILE.py",
        )
    if len(backbones) < len(found):
        raise UserError(f"two backbones in {path} have the same name", "give each a name of its own")
    main = getattr(module, MAIN, None) or (next(iter(found)) if len(found) == 1 else None)
    return ThirdPartyFile(path, ThirdParty(file=path.name, sha256=_sha256(content)), backbones, main)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}", "write --backbone path/to/file.py:name") from error
    except OSError as error:
        raise disk_error(path, error) from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@functools.lru_cache(maxsize=64)
def _run(path: Path, content: bytes) -> ModuleType:
    """The module of these bytes, which a process runs once."""
    loader = _Loaded(f"third_party_{_sha256(bytes(path) + content)}", path, _compiled(path, content))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None, "a loader without a spec"
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    try:
        loader.exec_module(module)
    except ImportError as error:
        raise UserError(
            f"{path} imports what is not here: {error}", "install it beside this program, or do without it"
        ) from error
    return module


class _Loaded(SourceFileLoader):
    """Runs the bytes that were read, whatever the file holds by now, and leaves nothing beside it."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        super().__init__(name, str(path))
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return self._code


def _compiled(path: Path, content: bytes) -> CodeType:
    try:
        tree = ast.parse(content, str(path))
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{path}{where} is no Python: {error.msg}", "mend it: `python FILE` shows the place") from error
    except ValueError as error:
        raise UserError(f"{path} is no Python: {error}", "write --backbone path/to/file.py:name") from error
    _require_alone(path, tree)
    return compile(tree, str(path), "exec", dont_inherit=True)


def _require_alone(path: Path, tree: ast.AST) -> None:
    """Raise UserError for an import of a neighbour, of which the run's id would know nothing."""
    for name in _imported(tree):
        beside = (path.with_name(f"{name}.py"), path.with_name(name) / "__init__.py")
        if name not in OURS and any(map(Path.exists, beside)):
            raise UserError(
                f"{path} imports its neighbour {name}: a backbone from outside is one file, whose digest is kept",
                "put what it needs into that file, or install it as a package",
            )


def _imported(tree: ast.AST) -> Iterator[str]:
    """The first part of every module's name that is imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (name.partition(".")[0] for name in names)
