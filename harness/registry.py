"""From a name to a backbone: the folder baselines/ is the registry."""

import importlib
import pkgutil

import baselines
from harness.backbone import Backbone
from harness.errors import unknown_name


def families() -> list[str]:
    """The families that there are, one public file in baselines/ each: `rae_dit.py` is `rae-dit`."""
    modules = (module.name for module in pkgutil.iter_modules(baselines.__path__))
    return sorted(name.replace("_", "-") for name in modules if not name.startswith("_"))


def find(family: str) -> Backbone:
    """The backbone of a family.  Only its file is imported; raises UserError for a name without a file."""
    known = families()
    if family not in known:
        raise unknown_name("backbone", family, known)
    module = f"baselines.{family.replace('-', '_')}"
    backbone = importlib.import_module(module).BACKBONE
    assert isinstance(backbone, Backbone), f"{module}: BACKBONE is no Backbone"
    assert backbone.name == family, f"{module} calls itself {backbone.name}"
    return backbone
