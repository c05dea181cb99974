"""One untrusted image file → RGB pixels of a fixed size; what cannot be read right is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.errors import BenchError

Fit = Literal["stretch", "crop"]
Box = tuple[float, float, float, float]
Window = Callable[[int, int], tuple[int, int, int, int]]  # width, height → left, top, right, bottom

# Only formats that Pillow decodes itself: it hands EPS, for one, to an interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 100_000_000
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class CorruptImageError(BenchError):
    """An image file that cannot be decoded."""


def inside(root: Path, path: str, follow_links: bool = False) -> Path:
    """Locate the regular file `path` below `root`.

    Raises BenchError when it is not there, or lies elsewhere because of `..`, or of a symbolic link
    unless those are followed.
    """
    place = root / path
    try:
        linked = stat.S_ISLNK(os.lstat(place).st_mode)
        real = Path(os.path.realpath(place)) if linked or ".." in path else place
        parent = real.parent if real is not place else _real_folder(place.parent)
        regular = stat.S_ISREG(os.stat(real).st_mode)
    except (OSError, ValueError) as error:
        raise BenchError(f"{place} is not there; expected an image file") from error
    climbs = os.path.isabs(path) or os.path.normpath(path).startswith("..")
    if climbs or not (follow_links or parent.is_relative_to(_real_folder(root))):
        links = "" if climbs else ", unless the setting follow_links = true allows links"
        raise BenchError(f"{place} leads out of {root}; images must lie below it{links}")
    if not regular:
        raise BenchError(f"{place} is no regular file; expected an image file")
    return place


def _real_folder(folder: Path) -> Path:
    """Resolve a folder once: datasets have few folders and many files."""
    if folder not in _FOLDERS:
        _FOLDERS[folder] = Path(os.path.realpath(folder))
    return _FOLDERS[folder]


_FOLDERS: dict[Path, Path] = {}


def decode(
    path: Path,
    size: int,
    fit: Fit = "stretch",
    box: Box | None = None,
    window: Window | None = None,
) -> NDArray[np.uint8]:
    """Decode a file, cut out `box` (left, top, right, bottom) and return pixels [3, size, size].

    With a `window`, what that cuts from the upright picture is stretched. Raises CorruptImageError
    naming the file and what is wrong with it.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return square(image, size, fit, box, window)
    except Exception as error:  # a decoder fails in many ways on a broken file
        raise CorruptImageError(
            f"{path} cannot be decoded ({type(error).__name__}: {error}); "
            "expected an intact image file (--skip-corrupt leaves such files out and counts them)"
        ) from error


def square(
    image: Image.Image,
    size: int,
    fit: Fit = "stretch",
    box: Box | None = None,
    window: Window | None = None,
) -> NDArray[np.uint8]:
    """Turn an image upright, make it RGB and resize it to pixels [3, size, size].

    `"stretch"` resizes both sides, `"crop"` takes the central square; a `window` of the picture
    as it is comes before either. Raises ValueError for an
    image that is too large, has pixels without a known range, or does not hold `box`.
    """
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} × {image.height} pixels are more than {MAX_PIXELS:,}")
    if box is None and window is None:
        image.draft(None, (2 * size, 2 * size))  # a JPEG is decoded no larger than needed
    image.load()
    turn = _turn(image)
    if box is not None:
        image = image.crop(_whole_pixels(box, image.size))
    image = rgb(image)
    if turn is not None:
        image = image.transpose(turn)
    if window is not None:
        image = image.crop(window(*image.size))
    elif fit == "crop":
        image = image.crop(_central_square(*image.size))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB: 16 bits become 8, what is transparent becomes white.

    Raises ValueError for 32-bit pixels, whose white is not known.
    """
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.float32) / 65535
        return Image.fromarray(np.rint(255 * levels).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """State what turns a loaded image upright; metadata that cannot be read turns nothing."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return None


def _central_square(width: int, height: int) -> tuple[int, int, int, int]:
    side = min(width, height)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return left, top, left + side, top + side


def _whole_pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge) for edge in box)
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, size[0]), min(bottom, size[1])
    if left >= right or top >= bottom:
        raise ValueError(f"the box {box} is not inside the image of {size[0]} × {size[1]} pixels")
    return left, top, right, bottom
