"""Distances within masks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks.windows import BoolMask


def distances_px(inside: BoolMask) -> NDArray[np.float32]:
    """Measure how far every cell (height, width) that is inside is from the nearest one that is not; 0 outside.

    Distances are from centre to centre, and beyond the array there is nothing. Their squares are whole numbers:
    rounding to them removes the last digits, which OpenCV gives differently from run to run, and which would choose
    the widest cell by chance.
    """
    rough = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    exact: NDArray[np.float32] = np.sqrt(np.rint(rough * rough)).astype(np.float32)
    return exact


def signed_distances_px(mask: BoolMask) -> NDArray[np.float32]:
    """Measure how far the centre of every pixel (height, width) is from the outline: positive inside, negative outside.

    The outline lies between pixels, half a pixel before the nearest centre on its other side.
    """
    signed: NDArray[np.float32] = np.where(mask, distances_px(mask) - 0.5, 0.5 - distances_px(~mask))
    return signed
