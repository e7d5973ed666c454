"""Read image files as pixels, in the same way for SAM and for the detectors.

Two loaders that disagree on a rotated photograph or on 16-bit grey would put masks beside their objects. Every
failure is an `ImageError` with a reason for the report, an `UnreachableError` where the system does not give the file;
nothing is printed and no warning is shown.
"""

from __future__ import annotations

import errno
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose

from pipeline.errors import ImageError, UnreachableError

# The size from which Pillow itself refuses to open a file; half a gigabyte as RGB.
MAX_IMAGE_PIXELS = 178_956_970
_PIXEL_LIMIT = f"the limit of {MAX_IMAGE_PIXELS:,}: scale it down or cut it into tiles"

STRIP_PIXELS = 1 << 22
"""Pixels of a large image that are converted at once."""

# Formats that Pillow decodes by itself; others start other programs (EPS: Ghostscript) or are not images.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# From the pixels as stored to the image as shown, by EXIF orientation.
_TURN_BY_ORIENTATION = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_SIDES_SWAPPED = (5, 6, 7, 8)
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_IMPOSSIBLE_NAME = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ)
_UNDO = {Transpose.ROTATE_270: Transpose.ROTATE_90, Transpose.ROTATE_90: Transpose.ROTATE_270}


def read_image(path: Path, expected_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image as RGB, uint8 (height, width, 3); ImageError with the reason where it cannot be used.

    `expected_size` is (width, height), as in the annotations. The EXIF orientation is applied, unless only the
    pixels as stored have the expected size: then the image was labelled without it. An animation gives its first
    frame; alpha is dropped; 16-bit grey is scaled to 8 bits by its full range.
    """
    with _opened(path) as image:
        orientation = _orientation(image)
        shown_size, stored_size = _sizes(image, orientation)
        wanted_size = _wanted_size(shown_size, stored_size, expected_size)
        is_tiff = image.format == "TIFF"  # the one format that Pillow rotates by itself, while it loads
        image.load()
        turn = _TURN_BY_ORIENTATION.get(orientation)
        upright: Image.Image = image
        if turn is not None and wanted_size == shown_size and not is_tiff:
            upright = image.transpose(turn)
        elif turn is not None and wanted_size != shown_size and is_tiff:
            upright = image.transpose(_UNDO.get(turn, turn))
        if upright.size != wanted_size:
            raise ImageError("its two records of the orientation contradict each other: save it upright")
        return _to_rgb(upright)


def read_index_image(path: Path, expected_size: tuple[int, int]) -> tuple[NDArray[np.uint16], NDArray[np.uint8] | None]:
    """Read an image whose pixels are numbers, not colours: (height, width), and its palette (N, 3) if it has one.

    expected_size: (width, height). ImageError with the reason where it cannot be used, such as for colours.
    """
    with _opened(path) as image:
        if image.size != expected_size:
            found, expected = (f"{width}x{height}" for width, height in (image.size, expected_size))
            raise ImageError(f"is {found} pixels, its image {expected}")
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            raise ImageError(f"is in colours ({image.mode}): save it as 8- or 16-bit grey, or with a palette")
        numbers = np.array(image)
        colours = image.getpalette() if image.mode == "P" else None
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > 0xFFFF:
        raise ImageError(f"holds values from {low} to {high}, not 0 to 65,535")
    palette = None if colours is None else np.array(colours, dtype=np.uint8).reshape(-1, 3)
    return numbers.astype(np.uint16), palette


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of what `read_image` returns without an expected size; read only the file's header."""
    with _opened(path) as image:
        return _sizes(image, _orientation(image))[0]


def check_image_header(path: Path, expected_size: tuple[int, int]) -> None:
    """Raise the ImageError that `read_image` would raise, as far as the header shows it."""
    with _opened(path) as image:
        _wanted_size(*_sizes(image, _orientation(image)), expected_size)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        _require_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd metadata; what matters is raised
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > MAX_IMAGE_PIXELS:
                    raise ImageError(f"is {image.width}x{image.height} pixels, more than {_PIXEL_LIMIT}")
                yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image, or in a format other than {', '.join(_FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"has more pixels than {_PIXEL_LIMIT}") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        if isinstance(error, OSError) and error.errno:  # Pillow's own have no number
            raise _unreachable(error) from error
        reason = str(error) or type(error).__name__
        raise ImageError(f"cannot be decoded, the file is damaged: {reason}") from error


def _require_file(path: Path) -> None:
    try:
        found = path.stat()
    except ValueError as error:  # a NUL byte in the path
        raise ImageError(f"cannot be opened: {error}") from error
    except OSError as error:
        raise _unreachable(error) from error
    if not S_ISREG(found.st_mode):  # before it is opened: opening a pipe would wait forever
        raise ImageError("a folder, not an image file" if S_ISDIR(found.st_mode) else "not a regular file")
    if found.st_size == 0:
        raise ImageError("the file is empty")


def _unreachable(error: OSError) -> ImageError:
    """Return the error for a file that the system does not give."""
    if error.errno in _IMPOSSIBLE_NAME:
        return ImageError(f"cannot be opened: {error.strerror}")
    if error.errno in _MISSING:
        return UnreachableError("no such file", missing=True)
    return UnreachableError(f"cannot be read: {error.strerror}")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where it is missing or cannot be read."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the pixels to search after them
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, struct.error):
        return 1
    return orientation if orientation in _TURN_BY_ORIENTATION else 1


def _sizes(image: Image.Image, orientation: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (width, height) as shown and as stored, of an image that is not loaded yet."""
    if orientation not in _SIDES_SWAPPED:
        return image.size, image.size
    swapped = (image.height, image.width)
    return (image.size, swapped) if image.format == "TIFF" else (swapped, image.size)


def _wanted_size(
    shown_size: tuple[int, int], stored_size: tuple[int, int], expected_size: tuple[int, int] | None
) -> tuple[int, int]:
    if expected_size is None or expected_size == shown_size:
        return shown_size
    if expected_size == stored_size:
        return stored_size
    shown, expected = (f"{width}x{height}" for width, height in (shown_size, expected_size))
    raise ImageError(f"is {shown} pixels, but its annotations are for {expected}")


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of an image; of a large one strip by strip, as each step of Pillow makes a copy."""
    if image.mode == "F":
        raise ImageError("holds floating point values of unknown range: save it as an 8- or 16-bit image")
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        end = min(top + rows, image.height)
        strip = image if rows >= image.height else image.crop((0, top, image.width, end))
        rgb[top:end] = _deep_grey(strip) if image.mode.startswith("I") else np.asarray(strip.convert("RGB"))
    return rgb


def _deep_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Return 16-bit grey as 8-bit grey, (height, width, 1)."""
    grey = np.asarray(image)
    low, high = int(grey.min()), int(grey.max())
    if low < 0 or high > 0xFFFF:
        raise ImageError(f"holds 32-bit values from {low} to {high}: save it as an 8- or 16-bit image")
    return (grey >> 8).astype(np.uint8)[..., np.newaxis]
