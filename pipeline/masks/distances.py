"""Distances within masks."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def distances(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of every cell that is inside to the nearest one that is not, from centre to centre; 0 outside.

    Their squares are whole numbers. Rounding to them takes away the last digits, in which OpenCV differs from
    run to run, and with them a place that is widest by chance.
    """
    rough = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    exact: NDArray[np.float32] = np.sqrt(np.rint(rough * rough)).astype(np.float32)
    return exact
