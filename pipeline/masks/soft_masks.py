"""Soft masks in 4 KiB: the logits around one instance, on a small grid, with 8 bits each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks.distances import signed_distances_px
from pipeline.masks.logit_codes import LOGITS, PROBABILITIES, encode_logits, log_odds, logistic
from pipeline.masks.run_lengths import CompressedRle, area_px, box_xyxy, decode_window
from pipeline.masks.windows import BoxXyxy, Window

SOFT_MASK_SIDE = 64

CROP_MARGIN = 0.25
MIN_MARGIN_PX = 2.0
"""Margin of the crop around the instance's box: a share of the box's side, or these pixels if they are more.

Refinement searches for background and for missing parts in the margin.
"""

_RAMP_SIDE = 256
"""Most pixels along the longer side of the crop in which a binary mask is softened."""

_RAMP_LOGITS = (-20.0, 6.2)
"""The range of logits of a softened mask: no depth tells that a mask was surer than a probability of 0.998."""

_RAMP_PX = 0.7
_RAMP_SHARE = 0.03
"""Width of the soft edge of a binary mask: pixels, and a share of the square root of its area."""


@dataclass(frozen=True, eq=False, slots=True)
class SoftMask:
    """How sure it is that each part of a crop belongs to the instance; outside of the crop nothing does.

    crop_box_xyxy: edges of the crop in pixels of the full image, whole numbers, x1 and y1 exclusive.
    codes: (SOFT_MASK_SIDE, SOFT_MASK_SIDE) uint8, logits as `logit_codes` has them. The grid divides the crop evenly.
    """

    crop_box_xyxy: tuple[int, int, int, int]
    codes: NDArray[np.uint8]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SoftMask):
            return NotImplemented
        same_crop = self.crop_box_xyxy == other.crop_box_xyxy
        return same_crop and np.array_equal(self.codes, other.codes)

    def __hash__(self) -> int:
        return hash((self.crop_box_xyxy, self.codes.tobytes()))

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Return the probabilities on the grid, 0 to 1."""
        return PROBABILITIES[self.codes]

    @property
    def logits(self) -> NDArray[np.float32]:
        """Return the logits on the grid, -16 to 16."""
        return LOGITS[self.codes]

    @property
    def window(self) -> Window:
        """Return the crop as a window of the image."""
        return Window(*self.crop_box_xyxy)

    def moved(self, dx: int, dy: int) -> SoftMask:
        """Return the same soft mask `dx` columns and `dy` rows further."""
        x0, y0, x1, y1 = self.crop_box_xyxy
        return replace(self, crop_box_xyxy=(x0 + dx, y0 + dy, x1 + dx, y1 + dy))


def make_soft_mask(
    probability: NDArray[np.float32], box_xyxy: BoxXyxy, complement: NDArray[np.float32] | None = None
) -> SoftMask:
    """Cut a soft mask out of a full-size probability map, around the instance's box.

    probability: (height, width) of the image, 0 to 1. box_xyxy: in pixels of the image; may reach beyond it.
    complement: 1 - probability, where it is known to more digits than the probability tells.
    """
    crop = _crop_around(box_xyxy, *probability.shape)
    inside = np.ascontiguousarray(probability[crop.in_image], dtype=np.float32)
    if complement is None:
        return _quantised(inside, 1 - inside, crop)
    return _quantised(inside, np.ascontiguousarray(complement[crop.in_image], dtype=np.float32), crop)


def soften(mask: CompressedRle) -> SoftMask:
    """Make a soft mask of a binary one with at least a pixel: 0.5 on its outline, less outside, more inside."""
    height, width = mask["size"]
    crop = _crop_around(box_xyxy(mask), height, width)
    inside = 255 * decode_window(mask, crop).view(np.uint8)
    # The stored grid is coarse: distances between millions of pixels are not needed.
    shrink = max(1.0, max(crop.width, crop.height) / _RAMP_SIDE)
    size = (ceil(crop.width / shrink), ceil(crop.height / shrink))
    covered = cv2.resize(inside, size, interpolation=cv2.INTER_AREA) > 127
    ramp_px = _RAMP_PX + _RAMP_SHARE * sqrt(area_px(mask))
    logits = np.clip(signed_distances_px(covered) / (ramp_px / shrink), *_RAMP_LOGITS)
    return _quantised(logistic(logits), logistic(-logits), crop)


def crop_probability(soft_mask: SoftMask) -> NDArray[np.float32]:
    """Return the probabilities in pixels of the image, of the crop alone: float32 (y1 - y0, x1 - x0), 0 to 1."""
    crop = soft_mask.window
    return _resized(soft_mask.probabilities, crop.width, crop.height)


def paint_soft_mask(soft_mask: SoftMask, width: int, height: int) -> NDArray[np.float32]:
    """Return the full-size probability map, float32 (height, width), 0 outside the crop."""
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


def _quantised(probability: NDArray[np.float32], complement: NDArray[np.float32], crop: Window) -> SoftMask:
    """Store probabilities (rows, columns) that divide a crop evenly."""
    # The mean of probabilities and not of logits: that of logits loses thin parts.
    inside, outside = (_resized(values, SOFT_MASK_SIDE, SOFT_MASK_SIDE) for values in (probability, complement))
    return SoftMask((crop.x0, crop.y0, crop.x1, crop.y1), encode_logits(log_odds(inside, outside)))


def _resized(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    # One axis at a time: a long thin crop shrinks along one and grows along the other, and only shrinking needs
    # averaging, which keeps thin parts.
    for size, axis in ((width, 1), (height, 0)):
        shrinks = size < values.shape[axis]
        target = (size, values.shape[0]) if axis == 1 else (values.shape[1], size)
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        values = np.asarray(cv2.resize(values, target, interpolation=interpolation), np.float32)
    return values
