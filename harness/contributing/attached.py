"""Whether norm maps hold what the board draws, and nothing else (no torch)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from harness.attachments import Tensors, path_beside, read_tensors
from harness.contributing.texts import problem_of_text
from harness.contributing.verdict import Breach
from harness.errors import UserError
from harness.records import RunRecord

# N images, T noise levels, B blocks, L patch tokens, R registers
_TYPES: Final = {"images": "uint8", "times": "float32", "patches": "float16", "registers": "float16"}
_AXES: Final = {"images": "NHWC", "times": "T", "patches": "NTBL", "registers": "NTBR"}
MOST_IMAGES, MOST_TIMES, LARGEST_SIDE = 4, 5, 256
_REMEDY: Final = "submit the norm maps that the run wrote"


def breaches_of_norm_maps(record: RunRecord, path: Path) -> Iterator[Breach]:
    """What is wrong with the norm maps of the record in the file `path`, which names some."""
    assert record.norm_maps is not None, "a record with norm maps"
    try:
        tensors = read_tensors(path_beside(path, "norms"), record.norm_maps)
    except UserError as error:
        yield Breach("attachment", error.problem, error.remedy)
        return
    problem = _problem(record, tensors)
    if problem:
        yield Breach("attachment", f"its norm maps {problem}", _REMEDY)


def _problem(record: RunRecord, tensors: Tensors) -> str:
    arrays = tensors.arrays
    found = {name: str(array.dtype) for name, array in arrays.items()}
    if found != _TYPES:
        return f"hold {ascii(', '.join(sorted(found)))[:120]}: not images, times, patches and registers of their types"
    sizes: dict[str, int] = {}
    for name, axes in _AXES.items():
        shape = arrays[name].shape
        if len(shape) != len(axes) or any(sizes.setdefault(axis, n) != n for axis, n in zip(axes, shape, strict=True)):
            return f"have {name} of shape {shape}, which does not fit the rest"
    if not 1 <= sizes["N"] <= MOST_IMAGES or not 1 <= sizes["T"] <= MOST_TIMES or sizes["B"] < 1 or sizes["L"] < 1:
        return f"are of {sizes['N']} images at {sizes['T']} noise levels: at most {MOST_IMAGES} at {MOST_TIMES}"
    if max(sizes["H"], sizes["W"]) > LARGEST_SIDE or sizes["C"] != record.config.task.channels:
        return f"have images of {sizes['H']} x {sizes['W']} with {sizes['C']} channels"
    levels = np.array(record.config.protocol.noise_levels, dtype=np.float32)
    if not np.isin(arrays["times"], levels).all():
        return "are at noise levels that the protocol does not probe"
    patches, registers = arrays["patches"], arrays["registers"]
    if not (patches >= 0).all() or (registers < 0).any() or np.isinf(registers).any() or np.isinf(patches).any():
        return "have norms that are no finite numbers from 0"
    hidden = [text for said in tensors.metadata.items() for text in said if problem_of_text(text)]
    return f"say {hidden[0][:60]!a}" if hidden else ""
