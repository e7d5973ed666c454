"""Crops images and encodes them as data URIs, so that the page contains them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from math import sqrt
from typing import Final

from PIL import Image

from pipeline.labels.drawing import RgbImage
from pipeline.masks.windows import BoxXyxy

_MARGIN: Final = 0.25
_SMALLEST_CROP_PX: Final = 32
_QUALITIES: Final = (78, 58, 40)
_SHRINK: Final = 0.95
PANEL_BYTES: Final = 13_000
WHOLE_IMAGE_BYTES: Final = 24_000
"""Most bytes of an image: with 24 images in each gallery, the page stays under 5 MB whatever the images show."""
_EFFORT: Final = 2
"""A third of the time of the default 4, for files that are a twentieth larger."""


@dataclass(frozen=True)
class InlineImage:
    """An image in the form that a page contains."""

    uri: str
    width: int
    height: int
    alt: str


def crop_around(box_xyxy: BoxXyxy, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the square around a box with a margin, moved and cut to fit the image: left, top, right, bottom."""
    x0, y0, x1, y1 = box_xyxy
    side = round(max((x1 - x0) * (1 + 2 * _MARGIN), (y1 - y0) * (1 + 2 * _MARGIN), _SMALLEST_CROP_PX))
    left, right = _around((x0 + x1) / 2, side, width)
    top, bottom = _around((y0 + y1) / 2, side, height)
    return left, top, right, bottom


def inline(image: RgbImage, alt: str, most_bytes: int) -> InlineImage:
    """Encode an image as WebP in a data URI, as well as so many bytes allow; shrink it if no quality does."""
    shown = Image.fromarray(image)
    while True:
        for quality in _QUALITIES:
            file = io.BytesIO()
            shown.save(file, "WEBP", quality=quality, method=_EFFORT)
            if file.tell() <= most_bytes:
                text = base64.b64encode(file.getvalue()).decode("ascii")
                return InlineImage(f"data:image/webp;base64,{text}", image.shape[1], image.shape[0], alt)
        scale = _SHRINK * sqrt(most_bytes / file.tell())
        shown = shown.resize((max(1, round(scale * shown.width)), max(1, round(scale * shown.height))))


def _around(centre: float, side: int, length: int) -> tuple[int, int]:
    side = min(side, length)
    start = min(max(round(centre - side / 2), 0), length - side)
    return start, start + side
