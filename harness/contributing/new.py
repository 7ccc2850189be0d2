"""Write the files of a new backbone, which run as they are."""

import importlib.util
import keyword
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template

import dsr
from harness import registry, third_party
from harness.errors import UserError
from harness.files import write_new

OUR_PACKAGES = (*third_party.OURS, "leaderboard", "tests")
_SECTION = re.compile(r"^=== (?P<title>.+)\n", re.MULTILINE)


def write_backbone(name: str, local: Path | None) -> list[Path]:
    """Write a backbone into baselines/, or whole into the one file `local`; returns what was written.

    Raises UserError for a name that is taken or cannot be one, a file that exists, and a folder that is no checkout.
    """
    registry.require_new_name(name)
    for is_taken, kind in (
        (keyword.iskeyword(name) or keyword.issoftkeyword(name), "a word of Python's"),
        (name in dsr.PRESETS, "a preset of registers"),
        (name in OUR_PACKAGES, "a package of this repository"),
    ):
        if is_taken:
            raise UserError(f"{name} is {kind}", "choose another name: my-net")
    texts = _in_baselines(name) if local is None else {_local(local): _text(name, *_LOCAL)}
    for path in texts:
        if os.path.lexists(path):
            raise UserError(f"{path} exists already, and is never overwritten", "choose another name, or move it away")
    for path, text in texts.items():
        write_new(path, text.encode())
    return list(texts)


_FAMILY = ("family head", "backbone")
_NETWORK = ("network head", "network")
_LOCAL = ("local head", "network", "local build", "backbone")


def _in_baselines(name: str) -> Mapping[Path, str]:
    folder, module = registry.folder(), _module(name)
    if not (folder.parent / "pyproject.toml").exists():
        raise UserError(
            f"{folder} is an installed copy, from which nothing can be proposed",
            "clone the repository and work there, or add --local FILE.py",
        )
    return {folder / f"{module}.py": _text(name, *_FAMILY), folder / f"_{module}.py": _text(name, *_NETWORK)}


def _local(path: Path) -> Path:
    if path.suffix != ".py":
        raise UserError(f"{path} does not end in .py", f"add --local {path.with_suffix('.py')}")
    if path.stem.isidentifier() and importlib.util.find_spec(path.stem) is not None:
        raise UserError(
            f"{path} would be imported in place of Python's {path.stem} by whatever is started beside it",
            f"choose another file: --local {path.with_stem('my_' + path.stem)}",
        )
    return path


def _text(name: str, *sections: str) -> str:
    """Sections of the template, in this order, filled in."""
    _, *parts = _SECTION.split(resources.files(__package__).joinpath("backbone_template.py.txt").read_text())
    template = dict(zip(parts[::2], parts[1::2], strict=True))
    words = [word.capitalize() for word in name.split("-")]
    text = Template("\n\n".join(template[section] for section in sections))
    return text.substitute(name=name, module=_module(name), title=" ".join(words), **{"class": "".join(words)})


def _module(name: str) -> str:
    return name.replace("-", "_")
