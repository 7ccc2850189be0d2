"""Open a feature extractor by its name: the only place that knows which code stands behind which."""

# N batch, C channels, H height, W width

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from harness.digits_judge import EXTRACTOR
from harness.errors import UserError
from harness.extractor import Extractor
from harness.extractor_weights import FLAG
from harness.extractors import ExtractorDefinition, Family, find
from harness.images import Pixels, to_unit
from harness.metrics import digits
from harness.tiled_extractor import Seen, TiledExtractor

DIGITS_SHAPE = (1, 8, 8)


def open_extractor(name: str, weights: str | None, device: torch.device) -> Extractor:
    """The extractor of a name, its weights from a path or a hub id, or, for None, from where they are published.

    Raises UserError for a name that nobody knows, a package that is not installed, and weights that are missing,
    damaged, code, or of another network.
    """
    definition = find(name)
    return _opener(definition.family)(definition, weights, device)


_Opener = Callable[[ExtractorDefinition, str | None, torch.device], Extractor]


def _opener(family: Family) -> _Opener:
    """The code of a family, imported when it is asked for: timm alone takes two seconds."""
    if family == "digits":
        return _open_digits
    if family in ("clean-fid", "torch-fidelity"):
        from harness import inception

        return inception.open_clean_fid if family == "clean-fid" else inception.open_torch_fidelity
    from harness import vision_extractors

    openers: Mapping[Family, _Opener] = {
        "dinov2": vision_extractors.open_dinov2,
        "clip": vision_extractors.open_clip,
        "timm": vision_extractors.open_timm,
    }
    return openers[family]


def _open_digits(definition: ExtractorDefinition, weights: str | None, device: torch.device) -> Extractor:
    if weights is not None:
        raise UserError(f"{FLAG} has no effect: the weights of {definition.name} are shipped", "leave the flag out")
    # The one that all share stays on the CPU.
    network = copy.deepcopy(digits.extractor()).to(device)

    def look(images_NCHW: Tensor) -> Seen:
        features_NF = network.features(images_NCHW)
        return Seen(features_NF, probabilities=network.classes(features_NF).softmax(dim=1))

    return TiledExtractor(EXTRACTOR, _digit, look, device, digits.BATCH)


def _digit(pixels_CHW: Pixels) -> Tensor:
    if pixels_CHW.shape != DIGITS_SHAPE:
        channels, height, width = pixels_CHW.shape
        raise UserError(
            f"the extractor digits looks at grey images of 8 x 8, these have {channels} channels of {height} x {width}",
            "choose another extractor for them: `list extractors` shows which there are",
        )
    return torch.from_numpy(to_unit(np.asarray(pixels_CHW)))
