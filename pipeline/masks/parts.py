"""Connected parts of a mask, and its holes."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks.windows import BoolMask

Indices = NDArray[np.intp]


def largest_part(mask: BoolMask, connectivity: Literal[4, 8] = 8) -> BoolMask:
    """Return the connected part of a mask (height, width) with the most pixels; of equals the first in reading order.

    connectivity: 4 joins pixels by sides, 8 by corners too.
    """
    return _best_part(mask, np.zeros(0, np.float32), *_NO_PIXELS, connectivity)


def best_supported_part(mask: BoolMask, votes: NDArray[np.float32], rows: Indices, columns: Indices) -> BoolMask:
    """Return the connected part (by sides and corners) with the most votes; where no part has any, the largest.

    mask: (height, width). votes: (V,), the teacher's probability at the pixels (rows, columns). Of equals the first
    in reading order.
    """
    return _best_part(mask, votes, rows, columns, connectivity=8)


def fill_holes(mask: BoolMask) -> BoolMask:
    """Return the mask (height, width) with all that it encloses. What reaches the array's border is not enclosed.

    Holes are connected by sides only, since the mask is by corners too.
    """
    background = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(background, connectivity=4)
    filled: BoolMask = labels[1:-1, 1:-1] != labels[0, 0]
    return filled


_NO_PIXELS = (np.zeros(0, np.intp), np.zeros(0, np.intp))


def _best_part(
    mask: BoolMask, votes: NDArray[np.float32], rows: Indices, columns: Indices, connectivity: int
) -> BoolMask:
    if not mask.any():  # of an array without a pixel, OpenCV crashes
        return mask
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    if count <= 2:
        return mask
    merit = np.bincount(labels[rows, columns], weights=votes, minlength=count)[1:]
    best: BoolMask = labels == 1 + int((merit if merit.any() else statistics[1:, cv2.CC_STAT_AREA]).argmax())
    return best
