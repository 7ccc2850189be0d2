"""From a name to a backbone: the folder baselines/ is the registry."""

import importlib
import pkgutil

import baselines
from harness.backbone import Backbone
from harness.errors import unknown_name


def families() -> list[str]:
    """The families that there are: one public file in baselines/ each."""
    return sorted(module.name for module in pkgutil.iter_modules(baselines.__path__) if not module.name.startswith("_"))


def find(family: str) -> Backbone:
    """The backbone of a family.  Only its file is imported; raises UserError for a name without a file."""
    known = families()
    if family not in known:
        raise unknown_name("backbone", family, known)
    backbone = importlib.import_module(f"baselines.{family}").BACKBONE
    assert isinstance(backbone, Backbone), f"baselines/{family}.py: BACKBONE is no Backbone"
    assert backbone.name == family.replace("_", "-"), f"baselines/{family}.py calls itself {backbone.name}"
    return backbone
