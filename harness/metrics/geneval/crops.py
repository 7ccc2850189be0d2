"""What CLIP is shown of an object when it is asked for the colour (no torch)."""

# H height, W width

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from harness.frozen import Frozen
from harness.metrics.geneval.geometry import Box

UNTOUCHED: Final = "original"


class CropOptions(Frozen):
    """What may be set; the defaults are official.

    `background` is the colour of what does not belong to an object, or "original" to leave that as it is; without
    `crop` the whole image is shown.
    """

    background: str = "#999999"
    crop: bool = True


OFFICIAL: Final = CropOptions()


def crop_for_color(
    image: Image.Image, box: Box, mask_HW: npt.NDArray[np.bool_] | None, options: CropOptions = OFFICIAL
) -> Image.Image:
    """An object alone, in RGB: cut out by its mask where there is one, and then by its box.

    `image` is upright (EXIF's orientation applied), as the detector saw it.  Corners are rounded, halves to the even
    pixel; what a box has outside of the image is black.
    """
    shown = image.convert("RGB")
    if mask_HW is not None and options.background != UNTOUCHED:
        assert mask_HW.shape == (image.height, image.width), "a mask has the size of its image"
        color = np.array(ImageColor.getrgb(options.background)[:3], np.uint8)
        shown = Image.fromarray(np.where(mask_HW[..., None], np.asarray(shown), color))
    if not options.crop:
        return shown
    x1, y1, x2, y2 = (float(corner) for corner in box[:4])
    return shown.crop((x1, y1, x2, y2))
