"""Where the outliers of a run are: token norms of a few probe images by block and noise level, as a small file."""

# N images, T noise levels, B blocks, L patch tokens, R registers, C channels, H height, W width

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from harness.attachments import MOST_BYTES, Attachment, attach
from harness.data import spread_evenly
from harness.images import Pixels
from harness.metrics.outliers import BlockNorms, probed_indices
from harness.norm_map_records import LONGEST_SIDE, MOST_IMAGES, MOST_LEVELS, SAID, NormMapsSaid
from harness.source import Source
from harness.spec import RunConfig

# Where not all blocks fit, noise levels are left out before fewer blocks than these are kept.
FEWEST_BLOCKS = 8
HEADER = 2**14

Norms = npt.NDArray[np.float16]


class NormMapRecorder:
    """Keeps the norms of a few of the images that are probed, spread evenly over them, while `outliers.probe` runs."""

    def __init__(self, config: RunConfig, source: Source) -> None:
        levels = config.protocol.noise_levels
        self._source = source
        self._indices = probed_indices(config, source)
        self._numbers = spread_evenly(MOST_IMAGES, len(self._indices))
        self._levels = levels
        self._times = [levels[place] for place in spread_evenly(MOST_LEVELS, len(levels))]
        self._kept: dict[tuple[int, float, int], tuple[Norms, Norms]] = {}

    def __call__(self, seen: BlockNorms) -> None:
        """Take in what a block put out."""
        for row, number in enumerate(seen.numbers):
            if seen.time in self._times and number in self._numbers:
                norms = _half(seen.patches[row]), _half(seen.registers[row])
                self._kept[int(number), seen.time, seen.block] = norms

    def write(self, path: Path) -> Attachment | None:
        """Write what was kept, and return what a record says of the file; None, and no file, where nothing was seen.

        `images` are uint8 (N, H, W, C), halved and so on until a side is at most 256; `times` float32 (T,); `patches`
        float16 (N, T, B, L), the norm of each patch token over the median patch of its image after block B, row by
        row; `registers` float16 (N, T, B, R) the same of the registers, NaN where a block has none.  The metadata says
        which `blocks` of `depth` were kept: all, unless the file would be too large.
        """
        if not self._kept:
            return None
        images = _smaller(self._source.images.pixels(self._indices[self._numbers])).transpose(0, 2, 3, 1)
        depth = 1 + max(block for _, _, block in self._kept)
        times, blocks = self._that_fit(depth, MOST_BYTES["norms"] - HEADER - images.nbytes)
        norms = [[[self._kept[int(n), t, b] for b in blocks] for t in times] for n in self._numbers]
        width = max(len(registers) for _, registers in self._kept.values())
        arrays: dict[str, npt.NDArray[Any]] = {
            "images": np.ascontiguousarray(images),
            "times": np.array(times, np.float32),
            "patches": np.array([[[patches for patches, _ in row] for row in rows] for rows in norms]),
            "registers": np.array([[[_filled(own, width) for _, own in row] for row in rows] for rows in norms]),
        }
        said = NormMapsSaid(
            blocks=tuple(blocks),
            depth=depth,
            noise_levels=self._levels,
            image_numbers=tuple(self._indices[self._numbers].tolist()),
        )
        return attach(path, arrays, (SAID, json.dumps(said.model_dump())))

    def _that_fit(self, depth: int, room: int) -> tuple[list[float], list[int]]:
        """Of the noise levels and the blocks, evenly, as many as so many bytes have room for."""
        largest = max(patches.nbytes + registers.nbytes for patches, registers in self._kept.values())
        for levels in range(len(self._times), 0, -1):
            fit = min(depth, room // (len(self._numbers) * levels * largest))
            if fit >= min(depth, FEWEST_BLOCKS):
                break
        assert fit, "norms of a single block are too large"
        times = [self._times[place] for place in spread_evenly(levels, len(self._times))]
        return times, spread_evenly(fit, depth).tolist()


def _half(norms_X: Tensor) -> Norms:
    """Float16, the largest there is for what is larger; NaN for what is no number."""
    values_X = norms_X.cpu().float().numpy()
    finite_X = np.where(np.isfinite(values_X), values_X, np.nan)
    return np.minimum(finite_X, np.finfo(np.float16).max).astype(np.float16)


def _filled(registers_X: Norms, width: int) -> Norms:
    """The norms of a block's registers, NaN for those that other blocks have and this one has not."""
    return np.concatenate([registers_X, np.full(width - len(registers_X), np.nan, np.float16)])


def _smaller(pixels_NCHW: Pixels) -> Pixels:
    """Images whose longer side is at most LONGEST_SIDE: means of squares of pixels."""
    N, C, H, W = pixels_NCHW.shape
    factor = -(-max(H, W) // LONGEST_SIDE)
    if factor == 1:
        return pixels_NCHW
    h, w = H // factor, W // factor
    squares = pixels_NCHW[:, :, : h * factor, : w * factor].reshape(N, C, h, factor, w, factor)
    smaller: Pixels = np.rint(squares.mean(axis=(3, 5))).astype(np.uint8)
    return smaller
