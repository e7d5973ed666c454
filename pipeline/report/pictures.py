"""Pictures that lie inside the page: cut out, drawn upon, encoded as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from PIL import Image

from pipeline.labels.drawing import RgbImage
from pipeline.masks.windows import BoxXyxy

PANEL_PX: Final = 352
"""The longer side of a picture: twice what is shown, for sharp screens."""
_MARGIN: Final = 0.25
_SMALLEST_CROP_PX: Final = 32
_QUALITY: Final = 78
_EFFORT: Final = 2
"""A third of the time of the usual 4, for files that are a twentieth larger."""


@dataclass(frozen=True)
class InlinePicture:
    """A picture as a page holds it."""

    uri: str
    width: int
    height: int
    alt: str


def crop_around(box_xyxy: BoxXyxy, width: int, height: int) -> tuple[int, int, int, int]:
    """A square around a box with some room, moved and cut to lie in an image: left, top, right, bottom in pixels."""
    x0, y0, x1, y1 = box_xyxy
    side = round(max((x1 - x0) * (1 + 2 * _MARGIN), (y1 - y0) * (1 + 2 * _MARGIN), _SMALLEST_CROP_PX))
    left, right = _around((x0 + x1) / 2, side, width)
    top, bottom = _around((y0 + y1) / 2, side, height)
    return left, top, right, bottom


def enlarged(image: RgbImage, longer_side_px: int = PANEL_PX) -> RgbImage:
    """The image scaled so that its longer side has a length; a copy to draw upon."""
    scale = longer_side_px / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.ascontiguousarray(resized, dtype=np.uint8)


def inline(picture: RgbImage, alt: str) -> InlinePicture:
    """Encode a picture as WebP in a data URI."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=_QUALITY, method=_EFFORT)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return InlinePicture(f"data:image/webp;base64,{text}", picture.shape[1], picture.shape[0], alt)


def _around(centre: float, side: int, length: int) -> tuple[int, int]:
    side = min(side, length)
    start = min(max(round(centre - side / 2), 0), length - side)
    return start, start + side
