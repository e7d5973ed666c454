"""Crops images and encodes them as data URIs, so that the page contains them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Final

from PIL import Image

from pipeline.labels.drawing import RgbImage
from pipeline.masks.windows import BoxXyxy

_MARGIN: Final = 0.25
_SMALLEST_CROP_PX: Final = 32
_QUALITY: Final = 78
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


def inline(image: RgbImage, alt: str) -> InlineImage:
    """Encode an image as WebP in a data URI."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=_QUALITY, method=_EFFORT)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return InlineImage(f"data:image/webp;base64,{text}", image.shape[1], image.shape[0], alt)


def _around(centre: float, side: int, length: int) -> tuple[int, int]:
    side = min(side, length)
    start = min(max(round(centre - side / 2), 0), length - side)
    return start, start + side
