"""Prompts to SAM and its answers: the values that refinement and the engine exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CANDIDATES: Final = 3
"""Masks with which a SAM answers a prompt, so that one can be chosen."""


@dataclass(frozen=True)
class Prompt:
    """One instance's prompt. Everything is optional, but the engine refuses an empty prompt.

    points_xy_full: (P, 2) float32, x then y, in pixels of the full image as segment_anything takes them: a pixel's
        centre has its whole-number indices.
    point_labels: (P,) int64, 1 inside the object, 0 outside.
    box_xyxy_full: (4,) float32, the box's edges in pixels of the full image, or None.
    mask_logits_lowres: (h, w) float32 in SAM's low-resolution frame (a quarter of its input side, half of it with
        sam_tiny; the image in the upper left corner, padding to the right and below), or None.
    """

    points_xy_full: NDArray[np.float32]
    point_labels: NDArray[np.int64]
    box_xyxy_full: NDArray[np.float32] | None = None
    mask_logits_lowres: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Candidates:
    """SAM's answers to one prompt, of which none is chosen yet.

    mask_logits_lowres: (C, h, w) float32 in SAM's low-resolution frame; above 0 is inside.
    predicted_iou: (C,) float32, SAM's own estimate of each candidate's IoU.
    """

    mask_logits_lowres: NDArray[np.float32]
    predicted_iou: NDArray[np.float32]
