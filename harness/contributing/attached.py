"""Whether norm maps hold what the board draws, and nothing else (no torch)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import ValidationError

from harness.attachments import Tensors, path_beside, read_tensors
from harness.contributing.networks import blocks_of, network_of
from harness.contributing.verdict import Breach
from harness.errors import UserError
from harness.norm_map_records import MOST_IMAGES, MOST_LEVELS, SAID, NormMapsSaid, shown_side
from harness.plain_files import reason_of
from harness.records import RunRecord
from harness.spec import RunConfig

# N images, T noise levels, B blocks, L patch tokens, R registers
_TYPES: Final = {"images": "uint8", "times": "float32", "patches": "float16", "registers": "float16"}
_AXES: Final = {"images": "NHWC", "times": "T", "patches": "NTBL", "registers": "NTBR"}
_REMEDY: Final = "submit the norm maps that the run wrote"


def breaches_of_norm_maps(record: RunRecord, path: Path) -> Iterator[Breach]:
    """What is wrong with the norm maps of the record in the file `path`, which names some."""
    assert record.norm_maps is not None, "a record with norm maps"
    try:
        tensors = read_tensors(path_beside(path, "norms"), record.norm_maps)
    except UserError as error:
        yield Breach("attachment", error.problem, error.remedy)
        return
    problem = _problem(record.config, tensors)
    if problem:
        yield Breach("attachment", f"its norm maps {problem}", _REMEDY)


def _problem(config: RunConfig, tensors: Tensors) -> str:
    arrays = tensors.arrays
    found = {name: str(array.dtype) for name, array in arrays.items()}
    if found != _TYPES:
        return f"hold {ascii(', '.join(sorted(found)))[:120]}: not images, times, patches and registers of their types"
    sizes: dict[str, int] = {}
    for name, axes in _AXES.items():
        shape = arrays[name].shape
        if len(shape) != len(axes) or any(sizes.setdefault(axis, n) != n for axis, n in zip(axes, shape, strict=True)):
            return f"have {name} of shape {shape}, which does not fit the rest"
    patches, registers = arrays["patches"], arrays["registers"]
    if not (patches >= 0).all() or (registers < 0).any() or np.isinf(registers).any() or np.isinf(patches).any():
        return "have norms that are no finite numbers from 0"
    times = arrays["times"]
    levels = np.array(config.protocol.noise_levels, dtype=np.float32)
    if not np.isin(times, levels).all() or len(np.unique(times)) < len(times):
        return "are at noise levels that the protocol does not probe, or twice at one"
    return _misfit(config, sizes) or _problem_of_metadata(config, tensors.metadata, sizes)


def _misfit(config: RunConfig, sizes: Mapping[str, int]) -> str:
    """How the arrays' sizes differ from what this configuration gives."""
    if not 1 <= sizes["N"] <= MOST_IMAGES or not 1 <= sizes["T"] <= MOST_LEVELS or sizes["B"] < 1 or sizes["L"] < 1:
        return f"are of {sizes['N']} images at {sizes['T']} noise levels: at most {MOST_IMAGES} at {MOST_LEVELS}"
    side = shown_side(config.task.image_size)
    images, due = (sizes["H"], sizes["W"], sizes["C"]), (side, side, config.task.channels)
    if images != due:
        return f"have images of {images}, and the task's are shown as {due}"
    registers = config.registers.denoiser.count if config.registers.denoiser else 0
    if sizes["R"] != registers:
        return f"have {sizes['R']} registers, and the run {registers}"
    network = network_of(config)
    if network is not None and sizes["L"] != network.patch_tokens:
        return f"have {sizes['L']} patch tokens, and the network {network.patch_tokens}"
    return ""


def _problem_of_metadata(config: RunConfig, metadata: Mapping[str, str], sizes: Mapping[str, int]) -> str:
    if metadata.keys() != {SAID}:
        return f"say {ascii(', '.join(sorted(metadata)))[:120]} of themselves, and not {SAID!r} alone"
    try:
        said = NormMapsSaid.model_validate_json(metadata[SAID])
    except ValidationError as error:
        return f"say of themselves what cannot be read: {reason_of(error)}"
    blocks = said.blocks
    if len(blocks) != sizes["B"] or list(blocks) != sorted(set(blocks)) or blocks[-1] >= said.depth:
        return f"say that they are of {len(blocks)} of {said.depth} blocks, and are of {sizes['B']}"
    network = network_of(config)
    if network is not None and said.depth != blocks_of(network):
        return f"are of {said.depth} blocks, and the network has {blocks_of(network)}"
    if said.noise_levels != config.protocol.noise_levels:
        return "say that other noise levels were probed than the protocol's"
    numbers = said.image_numbers
    if len(numbers) != sizes["N"] or list(numbers) != sorted(set(numbers)):
        return f"name {len(numbers)} images, and are of {sizes['N']}"
    return ""
