"""Soft masks in 4 KiB: the probabilities around one instance, on a small grid, in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks.distances import signed_distances_px
from pipeline.masks.run_lengths import CompressedRle, area_px, box_xyxy, decode_window
from pipeline.masks.windows import BoolMask, BoxXyxy, Window

SOFT_MASK_SIDE = 64

# How far the crop reaches beyond the instance's box on every side: a share of the box's side, or pixels if
# that is more. Refinement searches for background and for missing parts there.
CROP_MARGIN = 0.25
MIN_MARGIN_PX = 2.0

_RAMP_SIDE = 256
"""Pixels along the longer side of the crop that a binary mask is softened in, at most."""

_MOST_LOGIT = 20.0
"""Where a logistic function is as good as flat."""

_RAMP_PX = 0.7
_RAMP_SHARE = 0.03
"""How soft the edge of a binary mask becomes: pixels, and a share of the square root of its area."""


@dataclass(frozen=True, eq=False, slots=True)
class SoftMask:
    """The probability that each part of a crop belongs to the instance; outside of the crop it is 0.

    crop_box_xyxy: edges of the crop in pixels of the full image, whole numbers, x1 and y1 exclusive.
    probabilities: (SOFT_MASK_SIDE, SOFT_MASK_SIDE) uint8, 255 is 1.0. The grid divides the crop evenly.
    """

    crop_box_xyxy: tuple[int, int, int, int]
    probabilities: NDArray[np.uint8]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SoftMask):
            return NotImplemented
        same_crop = self.crop_box_xyxy == other.crop_box_xyxy
        return same_crop and np.array_equal(self.probabilities, other.probabilities)

    def __hash__(self) -> int:
        return hash((self.crop_box_xyxy, self.probabilities.tobytes()))

    @property
    def window(self) -> Window:
        """Return the crop as a window of the image."""
        return Window(*self.crop_box_xyxy)

    def moved(self, dx: int, dy: int) -> SoftMask:
        """Return the same soft mask `dx` columns and `dy` rows further."""
        x0, y0, x1, y1 = self.crop_box_xyxy
        return replace(self, crop_box_xyxy=(x0 + dx, y0 + dy, x1 + dx, y1 + dy))


def make_soft_mask(probability: NDArray[np.float32], box_xyxy: BoxXyxy) -> SoftMask:
    """Cut a soft mask out of a full-size probability map, around the instance's box.

    probability: (height, width) of the image, 0 to 1. box_xyxy: in pixels of the image; may reach beyond it.
    """
    crop = _crop_around(box_xyxy, *probability.shape)
    return _quantised(np.ascontiguousarray(probability[crop.in_image], dtype=np.float32), crop)


def soften(mask: CompressedRle) -> SoftMask:
    """Make a soft mask for a binary one: a half on its outline, falling outwards and rising inwards.

    The mask must have a pixel.
    """
    height, width = mask["size"]
    crop = _crop_around(box_xyxy(mask), height, width)
    inside = 255 * decode_window(mask, crop).view(np.uint8)
    # What is stored is coarse: there is no need for distances between millions of pixels.
    shrink = max(1.0, max(crop.width, crop.height) / _RAMP_SIDE)
    size = (ceil(crop.width / shrink), ceil(crop.height / shrink))
    covered = cv2.resize(inside, size, interpolation=cv2.INTER_AREA) > 127
    ramp_px = _RAMP_PX + _RAMP_SHARE * sqrt(area_px(mask))
    return _quantised(_ramp(covered, ramp_px / shrink), crop)


def crop_probability(soft_mask: SoftMask) -> NDArray[np.float32]:
    """Return the probabilities in pixels of the image, of the crop alone: float32 (y1 - y0, x1 - x0), 0 to 1."""
    crop = soft_mask.window
    return _resized(soft_mask.probabilities.astype(np.float32) / np.float32(255), crop.width, crop.height)


def paint_soft_mask(soft_mask: SoftMask, width: int, height: int) -> NDArray[np.float32]:
    """Return the full-size probability map, float32 (height, width), 0 outside of the crop."""
    probability = np.zeros((height, width), dtype=np.float32)
    probability[soft_mask.window.in_image] = crop_probability(soft_mask)
    return probability


def _crop_around(box_xyxy: BoxXyxy, height: int, width: int) -> Window:
    x0, x1 = _with_margin(box_xyxy[0], box_xyxy[2], width)
    y0, y1 = _with_margin(box_xyxy[1], box_xyxy[3], height)
    return Window(x0, y0, x1, y1)


def _with_margin(low: float, high: float, side: int) -> tuple[int, int]:
    """Return whole pixels from low to high with a margin, inside 0 to side, at least one pixel."""
    margin = max(CROP_MARGIN * (high - low), MIN_MARGIN_PX)
    start = min(max(floor(low - margin), 0), side - 1)
    end = max(min(ceil(high + margin), side), start + 1)
    return start, end


def _quantised(probability: NDArray[np.float32], crop: Window) -> SoftMask:
    """Store probabilities (rows, columns) that divide a crop evenly."""
    grid = _resized(probability, SOFT_MASK_SIDE, SOFT_MASK_SIDE)
    quantised = np.rint(np.clip(grid, 0.0, 1.0) * 255.0).astype(np.uint8)
    return SoftMask((crop.x0, crop.y0, crop.x1, crop.y1), quantised)


def _resized(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    # One axis at a time: a long thin crop shrinks along one and grows along the other, and averaging (which
    # loses no thin part) is for shrinking only.
    for size, axis in ((width, 1), (height, 0)):
        shrinks = size < values.shape[axis]
        target = (size, values.shape[0]) if axis == 1 else (values.shape[1], size)
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        values = np.asarray(cv2.resize(values, target, interpolation=interpolation), np.float32)
    return values


def _ramp(mask: BoolMask, ramp_px: float) -> NDArray[np.float32]:
    """Return the logistic function of the signed distance to the outline, positive inside."""
    logits = np.clip(signed_distances_px(mask) / ramp_px, -_MOST_LOGIT, _MOST_LOGIT)
    probability: NDArray[np.float32] = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return probability
