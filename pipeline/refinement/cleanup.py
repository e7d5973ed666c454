"""Cleaning one mask: stray parts and holes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]
Indices = NDArray[np.intp]


def best_component(mask: BoolMask, votes: NDArray[np.float32], rows: Indices, columns: Indices) -> BoolMask:
    """The connected part (by sides and corners) with the most votes; where none has any, the largest.

    mask: (h, w). votes: (V,), the teacher's probability at the pixels (rows, columns). Of equals the first in
    reading order.
    """
    if not mask.any():  # of an array without a pixel, OpenCV crashes
        return mask
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    merit = np.bincount(labels[rows, columns], weights=votes, minlength=count)[1:]
    best: BoolMask = labels == 1 + int((merit if merit.any() else statistics[1:, cv2.CC_STAT_AREA]).argmax())
    return best


def fill_holes(mask: BoolMask) -> BoolMask:
    """The mask (h, w) with all that it encloses. What reaches the array's border is not enclosed.

    Holes are connected by sides only, since the mask is by corners too.
    """
    background = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(background, connectivity=4)
    filled: BoolMask = labels[1:-1, 1:-1] != labels[0, 0]
    return filled
