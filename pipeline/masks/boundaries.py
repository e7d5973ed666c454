"""Boundary IoU: the IoU of two masks' inner borders, each as wide as a share of the image's diagonal.

It is that of Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (CVPR 2021).
The border of a mask is found in the part of the image that the mask takes up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks.overlap import Floats
from pipeline.masks.run_lengths import CompressedRle, decode_window, tight_window
from pipeline.masks.windows import BoolMask, Window

BOUNDARY_SHARE = 0.02
"""Width of the border, as a share of the image's diagonal."""


def boundary_width_px(height: int, width: int) -> int:
    """Return the width of the border for an image of this size: 2 % of its diagonal, at least one pixel."""
    return max(1, round(BOUNDARY_SHARE * hypot(height, width)))


def inner_boundary(mask: BoolMask, width_px: int) -> BoolMask:
    """Return the pixels of a mask (height, width) within `width_px` of its outside, counted like a king's moves.

    Whatever lies beyond the array is outside, so a crop around the mask gives what the whole image gives.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    distance_px = cv2.distanceTransform(padded, cv2.DIST_C, 3)[1:-1, 1:-1]
    boundary: BoolMask = mask & (distance_px <= width_px)
    return boundary


@dataclass(frozen=True)
class Border:
    """The inner border of a mask: bool (height, width) of the window that the mask takes up."""

    window: Window
    pixels: BoolMask
    area_px: int

    @classmethod
    def of_rle(cls, rle: CompressedRle) -> Border:
        """Find the border of a mask of a whole image."""
        window = tight_window(rle)
        pixels = inner_boundary(decode_window(rle, window), boundary_width_px(*rle["size"]))
        return cls(window, pixels, int(np.count_nonzero(pixels)))

    def shared_px(self, other: Border) -> int:
        """Count the pixels that both have."""
        both = self.window & other.window
        mine, theirs = self.pixels[self.window.slices(both)], other.pixels[other.window.slices(both)]
        return int(np.count_nonzero(mine & theirs))


def border_iou(first: Border, second: Border) -> float:
    """Return the IoU of two borders; 0 if both are empty."""
    shared = first.shared_px(second)
    union = first.area_px + second.area_px - shared
    return shared / union if union else 0.0


def limited_by_borders(
    mask_ious: Floats,
    masks: Sequence[CompressedRle],
    truths: Sequence[CompressedRle],
    crowds: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
) -> Floats:
    """Return what boundary AP compares: the lesser of mask IoU and boundary IoU, (D, G); 0 for pairs not `wanted`.

    With a crowd, the share of the mask's border that lies on the crowd's stands for the IoU, as of whole masks.
    """
    limited = np.zeros_like(mask_ious)
    detections, shown = np.nonzero(wanted)
    mask_borders = {index: Border.of_rle(masks[index]) for index in set(detections.tolist())}
    truth_borders = {index: Border.of_rle(truths[index]) for index in set(shown.tolist())}
    for detection, index in zip(detections.tolist(), shown.tolist(), strict=True):
        mask, truth = mask_borders[detection], truth_borders[index]
        iou = mask.shared_px(truth) / mask.area_px if crowds[index] and mask.area_px else border_iou(mask, truth)
        limited[detection, index] = min(mask_ious[detection, index], iou)
    return limited
