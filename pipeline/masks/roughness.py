"""How rough the outline of a mask is, without knowing what it should be."""

from __future__ import annotations

from math import ceil, sqrt
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks.run_lengths import CompressedRle, area_px, decode_window, tight_window

LEAST_PX: Final = 64
"""Masks of fewer pixels have no outline to speak of."""
_SIDE: Final = 128
"""A mask is measured at this square root of its area, in cells, if it is larger."""
_SHARE: Final = 0.04
_LEAST_CELLS: Final = 0.7
"""Width of the smoothing: a share of the square root of the area, and cells."""
_MOST: Final = 3.0


def roughness(mask: CompressedRle) -> float | None:
    """Return the length of the outline over that of the smoothed outline: 1 for a disc, at most 3.

    Steps, frays, holes and specks raise it. None for a mask that is too small or too thin to be smoothed.
    """
    area = area_px(mask)
    if area < LEAST_PX:
        return None
    window = tight_window(mask)
    shrink = max(1.0, sqrt(area) / _SIDE)
    size = (ceil(window.width / shrink), ceil(window.height / shrink))
    covered = cv2.resize(255 * decode_window(mask, window).view(np.uint8), size, interpolation=cv2.INTER_AREA)
    side = sqrt(area) / shrink
    inside = np.pad(covered > 127, ceil(0.25 * side))  # the smoothing reaches beyond the mask
    smooth = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), max(_LEAST_CELLS, _SHARE * side)) > 0.5
    if 2 * np.count_nonzero(smooth) < np.count_nonzero(inside):
        return None
    return min(_MOST, _outline_length(inside) / _outline_length(smooth))


def _outline_length(mask: NDArray[np.bool_]) -> float:
    """Return the length of all outlines of a mask with pixels, holes included, in cells; at least one cell."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return max(1.0, sum(cv2.arcLength(contour, closed=True) for contour in contours))
