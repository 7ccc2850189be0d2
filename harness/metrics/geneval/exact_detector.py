"""Find the objects of shapes-t2i in an image, exactly: by their colours and outlines, without a network (no torch)."""

# H height, W width, P paints, h w height and width of an object's box, T stencils

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from harness.comparability import ExtractorIdentity
from harness.metrics.geneval.detections import ColorsOf, Detections, Objects
from harness.shapes.palette import DESIGN_SIZE, PAINTS, RGB_P3, SHAPES, Floats, coverage

Image = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

# Nearer than half of the way from a colour to the background, a pixel is background.
_HALF = 0.5
# In pixels of an image of 32 x 32: what is smaller, narrower, larger or much longer than wide is no object.
_SMALLEST_AREA = 24.0
_SMALLEST_SIDE, _LARGEST_SIDE = 6.5, 18.0
_LONGEST = 1.5
# How far a colour must be from the background to be seen on it.
_LEAST_CONTRAST = 50.0
# How well a region and a stencil must agree for the first confidence, and for full confidence.
_WORST, _BEST = 0.76, 0.9
# Stencils are tried at sides a little larger than the box (whose rim is less than half covered), and off its centre.
_SIDES = (-0.5, 0.0, 0.5, 1.0)
_NUDGES = (-0.5, 0.0, 0.5)


@dataclass(frozen=True)
class _Found:
    """An object: its shape and colour, its box (inclusive pixels), its mask (H, W), and how surely it is one."""

    shape: str
    color: str
    box: tuple[int, int, int, int]
    mask: Flags
    confidence: float


def detect(image_HWC: Image) -> tuple[Detections, ColorsOf]:
    """The objects of each shape in an image (H, W, 3) of 0..255 with one background, and their colours.

    An object is a connected region nearer to one colour of the palette than to the background and the other colours.
    Its confidence is above 0.9 where it has the outline of a shape, below 0.3 where it has that of none; what cannot
    be an object for its size is absent.  A colour that is nearly the background's is not seen.
    """
    found = list(_objects(image_HWC))
    by_shape = {shape: [each for each in found if each.shape == shape] for shape in SHAPES}
    present = {shape: each for shape, each in by_shape.items() if each}
    return {shape: _as_objects(each) for shape, each in present.items()}, _Colors(present)


class _Colors:
    """The colours of the objects of a class."""

    def __init__(self, found: Mapping[str, Sequence[_Found]]) -> None:
        self._found = found

    def __call__(self, object_class: str, rows: Sequence[int]) -> list[str]:
        return [self._found[object_class][row].color for row in rows]


def _as_objects(found: Sequence[_Found]) -> Objects:
    boxes = np.array([[*each.box, each.confidence] for each in found], np.float32)
    return Objects(boxes, np.stack([each.mask for each in found]))


def _objects(image_HWC: Image) -> Iterator[_Found]:
    """Region by region, paint by paint."""
    paints_HW, shares_HWP = _paints(image_HWC.astype(np.float32))
    scale = min(paints_HW.shape) / DESIGN_SIZE
    for paint in np.unique(paints_HW[paints_HW >= 0]):
        regions, _ = ndimage.label(paints_HW == paint)
        # Other objects are no part of a region's rim.
        shares = np.pad(shares_HWP[..., paint] * ((paints_HW == paint) | (paints_HW < 0)), 1)
        for number, place in enumerate(ndimage.find_objects(regions), start=1):
            mask = regions[place] == number
            if _may_be_object(mask, scale):
                shape, confidence = _recognised(mask, shares[_with_rim(place)])
                whole = np.zeros(paints_HW.shape, np.bool_)
                whole[place] = mask
                yield _Found(shape, PAINTS[paint], _box(place), whole, confidence)


def _paints(image_HWC: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """The colour of each pixel (H, W) as a place in the palette, -1 for the background; and every colour's share.

    Every pixel is taken for a mixture of the background and one colour, as edges are: of the colour that explains it
    best, and of background where there is less than half of that colour.
    """
    background_3 = _background(image_HWC)
    towards_P3 = RGB_P3 - background_3
    lengths_P = (towards_P3**2).sum(1)
    unseen_P = lengths_P < _LEAST_CONTRAST**2
    along_HWP = (image_HWC - background_3) @ towards_P3.T
    shares_HWP = (along_HWP / np.where(unseen_P, np.inf, lengths_P)).clip(0, 1)
    # |pixel - share * towards|^2, less what is the same for all colours.
    errors_HWP = shares_HWP * (shares_HWP * lengths_P - 2 * along_HWP)
    best_HW = errors_HWP.argmin(-1)
    share_HW = np.take_along_axis(shares_HWP, best_HW[..., None], -1)[..., 0]
    return np.where(share_HW > _HALF, best_HW, -1), shares_HWP


def _background(image_HWC: Floats) -> Floats:
    """The median colour of the image's edge, which objects do not reach."""
    edge = np.concatenate([image_HWC[0], image_HWC[-1], image_HWC[1:-1, 0], image_HWC[1:-1, -1]])
    return np.asarray(np.median(edge, axis=0), np.float32)


def _may_be_object(mask: Flags, scale: float) -> bool:
    short, long = sorted(mask.shape)
    fits = _SMALLEST_SIDE * scale <= short and long <= min(_LARGEST_SIDE * scale, _LONGEST * short)
    return fits and int(mask.sum()) >= _SMALLEST_AREA * scale**2


def _with_rim(place: tuple[slice, slice]) -> tuple[slice, slice]:
    """A box and a pixel around it, in what is padded by a pixel."""
    rows, columns = place
    return slice(rows.start, rows.stop + 2), slice(columns.start, columns.stop + 2)


def _box(place: tuple[slice, slice]) -> tuple[int, int, int, int]:
    rows, columns = place
    return columns.start, rows.start, columns.stop - 1, rows.stop - 1


def _recognised(mask: Flags, shares: Floats) -> tuple[str, float]:
    """The shape whose outline agrees best with a region (h, w), of its colour's shares (h + 2, w + 2); how surely."""
    own = ndimage.binary_dilation(np.pad(mask, 1), np.ones((3, 3)))
    agreements = _agreements(shares * own)
    best = int(agreements.argmax())
    return SHAPES[best], float(np.clip((agreements[best] - _WORST) / (_BEST - _WORST), 0, 1))


def _agreements(shares: Floats) -> Floats:
    """For each shape how well its outline agrees with shares of a colour (h + 2, w + 2), at its best, in 0..1.

    This is the share of pixels that both cover of those that either covers, with pixels that are covered in part.
    """
    bank, areas = _stencils(*(length - 2 for length in shares.shape))
    flat = shares.ravel()
    both = bank @ flat
    return np.asarray((both / (areas + flat @ flat - both)).reshape(len(SHAPES), -1).max(1))


@lru_cache(maxsize=128)
def _stencils(height: int, width: int) -> tuple[Floats, Floats]:
    """All shapes as they may lie in a box, with a pixel around it: (T, (h + 2) * (w + 2)), and their squared sums."""
    middle = (height + width) / 2
    places = [
        (side, 1 + (height - side) / 2 + down, 1 + (width - side) / 2 + right)
        for side, down, right in product([middle + change for change in _SIDES], _NUDGES, _NUDGES)
    ]
    drawn = [coverage(shape, np.array(places), height + 2, width + 2) for shape in SHAPES]
    bank = np.concatenate(drawn).reshape(len(SHAPES) * len(places), -1)
    return bank, (bank**2).sum(1)


def _identity() -> ExtractorIdentity:
    sizes = (_SMALLEST_AREA, _SMALLEST_SIDE, _LARGEST_SIDE, _LONGEST)
    constants: list[Any] = [_HALF, sizes, _LEAST_CONTRAST, _WORST, _BEST, _SIDES, _NUDGES]
    drawn = [coverage(shape, np.array([[14.0, 1.0, 1.0]]), 16, 16).tobytes() for shape in SHAPES]
    digest = hashlib.sha256(b"".join([repr((PAINTS, SHAPES, constants)).encode(), RGB_P3.tobytes(), *drawn]))
    return ExtractorIdentity(name="exact-shapes", version="1", weights_sha256=digest.hexdigest())


IDENTITY: Final = _identity()
