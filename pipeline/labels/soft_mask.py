"""A teacher's soft mask in 4 KiB: the probabilities around one instance, on a small grid, in 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SOFT_MASK_SIDE = 64

# How far the crop reaches beyond the instance's box on every side: a share of the box's side, or pixels if
# that is more. Refinement looks for background and for missing parts there.
CROP_MARGIN = 0.25
MIN_MARGIN_PX = 2.0


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


def make_soft_mask(probability: NDArray[np.float32], box_xyxy: tuple[float, float, float, float]) -> SoftMask:
    """Cut a soft mask out of a full-size probability map, around the instance's box.

    probability: (height, width) of the image, 0 to 1. box_xyxy: in pixels of the image; may reach beyond it.
    """
    height, width = probability.shape
    x0, x1 = _with_margin(box_xyxy[0], box_xyxy[2], width)
    y0, y1 = _with_margin(box_xyxy[1], box_xyxy[3], height)
    crop = np.ascontiguousarray(probability[y0:y1, x0:x1], dtype=np.float32)
    grid = _resized(crop, SOFT_MASK_SIDE, SOFT_MASK_SIDE)
    quantised = np.rint(np.clip(grid, 0.0, 1.0) * 255.0).astype(np.uint8)
    return SoftMask((x0, y0, x1, y1), quantised)


def crop_probability(soft_mask: SoftMask) -> NDArray[np.float32]:
    """The probabilities in pixels of the image, of the crop alone: float32 (y1 - y0, x1 - x0), 0 to 1."""
    x0, y0, x1, y1 = soft_mask.crop_box_xyxy
    return _resized(soft_mask.probabilities.astype(np.float32) / np.float32(255), x1 - x0, y1 - y0)


def paint_soft_mask(soft_mask: SoftMask, width: int, height: int) -> NDArray[np.float32]:
    """The full-size probability map, float32 (height, width), 0 outside of the crop."""
    x0, y0, x1, y1 = soft_mask.crop_box_xyxy
    probability = np.zeros((height, width), dtype=np.float32)
    probability[y0:y1, x0:x1] = crop_probability(soft_mask)
    return probability


def _with_margin(low: float, high: float, side: int) -> tuple[int, int]:
    """Whole pixels from low to high with a margin, inside 0 to side, at least one pixel."""
    margin = max(CROP_MARGIN * (high - low), MIN_MARGIN_PX)
    start = min(max(math.floor(low - margin), 0), side - 1)
    end = max(min(math.ceil(high + margin), side), start + 1)
    return start, end


def _resized(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    # One axis at a time: a long thin crop shrinks along one and grows along the other, and averaging (which
    # loses no thin part) is for shrinking only.
    for size, axis in ((width, 1), (height, 0)):
        shrinks = size < values.shape[axis]
        target = (size, values.shape[0]) if axis == 1 else (values.shape[1], size)
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        values = np.asarray(cv2.resize(values, target, interpolation=interpolation), np.float32)
    return values
