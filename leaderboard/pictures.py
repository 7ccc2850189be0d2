"""Pictures that lie beside records, made large enough to look at: small ones with every pixel as it is."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

# What is narrower is enlarged by a whole factor, for a browser would blur it.
LEAST_WIDTH = 480


def opened(path: Path) -> Image.Image | None:
    """A picture from a file; None where there is none, or it is not one that can be read."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return enlarged(picture)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def enlarged(picture: Image.Image, least: int = LEAST_WIDTH) -> Image.Image:
    """The picture at least so many pixels wide, without new colours."""
    factor = -(-least // picture.width)
    size = (picture.width * factor, picture.height * factor)
    return picture if factor <= 1 else picture.resize(size, Image.Resampling.NEAREST)
