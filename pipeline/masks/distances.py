"""Distances within masks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks.windows import BoolMask


def distances_px(inside: BoolMask) -> NDArray[np.float32]:
    """Return the distance of every cell inside (height, width) to the nearest cell outside; 0 outside.

    Distances are from centre to centre; cells beyond the array do not count. Their squares are rounded to whole
    numbers, since the last digits of OpenCV's differ from run to run and would choose the widest cell by chance.
    """
    rough = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    exact: NDArray[np.float32] = np.sqrt(np.rint(rough * rough)).astype(np.float32)
    return exact


def signed_distances_px(mask: BoolMask) -> NDArray[np.float32]:
    """Return the distance of every pixel's centre (height, width) to the outline, positive inside, negative outside.

    The outline lies between pixels, half a pixel before the nearest centre on its other side.
    """
    signed: NDArray[np.float32] = np.where(mask, distances_px(mask) - 0.5, 0.5 - distances_px(~mask))
    return signed
