"""Imitate a teacher's masks: true ones seen through the small grid of a mask head, in boxes that are a bit off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.labels.rows import Decision, InstanceLabel, label_from_mask
from pipeline.masks.soft_masks import make_soft_mask
from pipeline.masks.windows import BoolMask, BoxXyxy, nonzero_window

HEAD_SIDE: Final = 28
"""Cells along a side of the imitated mask head."""

SMALLEST_PX: Final = 16
"""Smaller masks are not imitated: a cell of the head shows most of them."""

MOST_NOISE: Final = 4.0
"""Noise at which hardly anything of a mask is left."""

_SCORE: Final = 0.9
_HALVINGS: Final = 8
_MOST_MASKS: Final = 40


def imitated_label(mask: BoolMask, category_id: int, noise: float, rng: np.random.Generator) -> InstanceLabel | None:
    """Return an imitated teacher's label of a mask (height, width); None if either mask has under `SMALLEST_PX`."""
    if np.count_nonzero(mask) < SMALLEST_PX:
        return None
    probability, box_xyxy = teacher_probability(mask, noise, rng)
    if np.count_nonzero(probability > 0.5) < SMALLEST_PX:
        return None
    label = label_from_mask(probability > 0.5, category_id, _SCORE, Decision.TEACHER)
    return replace(label, soft_mask=make_soft_mask(probability, box_xyxy))


def noise_of_quality(masks: Sequence[BoolMask], mean_iou: float, seed: int) -> float:
    """Return the noise at which a teacher's masks have this mean IoU with the true ones, given some of the latter.

    A mean IoU that no noise reaches gives the nearest one that does: 0, or `MOST_NOISE`.
    """
    low, high = 0.0, MOST_NOISE
    shown = masks[:_MOST_MASKS]
    if _mean_iou(shown, low, seed) <= mean_iou:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean_iou(shown, middle, seed) > mean_iou else (low, middle)
    return (low + high) / 2


def _mean_iou(masks: Sequence[BoolMask], noise: float, seed: int) -> float:
    ious = []
    for number, mask in enumerate(masks):
        taught = teacher_probability(mask, noise, np.random.default_rng([seed, number]))[0] > 0.5
        ious.append(np.count_nonzero(taught & mask) / np.count_nonzero(taught | mask))
    return float(np.mean(ious))


def teacher_probability(mask: BoolMask, noise: float, rng: np.random.Generator) -> tuple[NDArray[np.float32], BoxXyxy]:
    """Imitate a mask head: return its probabilities for a mask (height, width), at full size, and its box.

    noise: how far the box is off, and how strong the smooth noise is that removes and adds parts.
    """
    height, width = mask.shape
    box = np.array(astuple(nonzero_window(mask)), dtype=np.float64)
    extent = np.tile(box[2:] - box[:2], 2)
    x0, y0, x1, y1 = box + rng.normal(0, 0.06 * noise, 4) * extent
    x1, y1 = max(x1, x0 + 2), max(y1, y0 + 2)
    # From the image to the map's cells; the map sees a mask that is slightly moved and blurred.
    to_head = np.array([[HEAD_SIDE / (x1 - x0), 0, 0], [0, HEAD_SIDE / (y1 - y0), 0]])
    to_head[:, 2] = -to_head[0, 0] * x0, -to_head[1, 1] * y0
    shift = rng.normal(0, 0.04 * noise, 2) * HEAD_SIDE
    seen_matrix = to_head.copy()
    seen_matrix[:, 2] += shift
    flags = cv2.INTER_LINEAR
    # cv2 puts pixel centres at whole numbers: add half a pixel on both sides.
    seen = cv2.warpAffine(_smoothed(mask, to_head), _centred(seen_matrix), (HEAD_SIDE, HEAD_SIDE), flags=flags)
    logits = 8 * (cv2.GaussianBlur(seen, (0, 0), 1.2) - 0.5)
    logits += 3.0 * noise * _smooth_noise(rng)
    head = (1 / (1 + np.exp(-logits))).astype(np.float32)
    back = cv2.invertAffineTransform(_centred(to_head))
    probability = np.asarray(cv2.warpAffine(head, back, (width, height), flags=flags), np.float32)
    return probability, (float(x0), float(y0), float(x1), float(y1))


def _smoothed(mask: BoolMask, to_head: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the mask averaged over about one cell of the head's map, so that it can be sampled there."""
    sigma = [max(0.3, 0.4 / to_head[0, 0]), max(0.3, 0.4 / to_head[1, 1])]
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma[0], sigmaY=sigma[1]), np.float32)


def _centred(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the same transform between pixel indices instead of positions."""
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return centred


def _smooth_noise(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return noise of unit strength that changes over a quarter of the map, plus finer noise of a third of that."""
    total = np.zeros((HEAD_SIDE, HEAD_SIDE), dtype=np.float32)
    for side, strength in ((5, 1.0), (12, 0.35)):
        drawn = rng.normal(0, 1, (side, side)).astype(np.float32)
        total += strength * cv2.resize(drawn, (HEAD_SIDE, HEAD_SIDE), interpolation=cv2.INTER_CUBIC)
    return total
