"""How much masks and boxes overlap, 0 to 1; 0 where both are empty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.masks.run_lengths import CompressedRle

Floats = NDArray[np.float64]


def mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Floats:
    """Return the IoU of masks (…, height, width) of one frame, over the last two axes."""
    union = np.count_nonzero(first | second, axis=(-2, -1))
    iou: Floats = np.count_nonzero(first & second, axis=(-2, -1)) / np.maximum(union, 1)
    return iou


def soft_iou(masks: NDArray[np.bool_], probability: NDArray[np.float32]) -> Floats:
    """Return the IoU of masks (C, height, width) with a soft one (height, width): sum of minima over sum of maxima."""
    flat = masks.reshape(len(masks), -1)
    weights = probability.reshape(-1).astype(np.float64)
    overlap = flat @ weights
    union = flat.sum(axis=1) + weights.sum() - overlap
    iou: Floats = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return iou


def rle_iou(first: CompressedRle, second: CompressedRle) -> float:
    """Return the IoU of two masks of one image."""
    return float(rle_ious([first], [second])[0, 0])


def rle_ious(
    masks: Sequence[CompressedRle], truths: Sequence[CompressedRle], crowds: NDArray[np.bool_] | None = None
) -> Floats:
    """Return the IoU of every mask with every truth of one image, (D, G).

    crowds: (G,), truths for which the share of the mask that lies in them stands for the IoU.
    """
    if not masks or not truths:
        return np.zeros((len(masks), len(truths)))
    ious: Floats = coco_mask.iou(list(masks), list(truths), _crowd_flags(len(truths), crowds))
    return ious


def box_ious(boxes_xywh: Floats, truths_xywh: Floats, crowds: NDArray[np.bool_] | None = None) -> Floats:
    """Return the IoU of every box (D, 4) with every truth's (G, 4), as (D, G); crowds as for `rle_ious`."""
    if not len(boxes_xywh) or not len(truths_xywh):
        return np.zeros((len(boxes_xywh), len(truths_xywh)))
    ious: Floats = coco_mask.iou(boxes_xywh, truths_xywh, _crowd_flags(len(truths_xywh), crowds))
    return ious


def area_match(first_px: int, second_px: int) -> float:
    """Return the smaller of two areas over the larger, which must not be 0."""
    return min(first_px, second_px) / max(first_px, second_px)


def _crowd_flags(count: int, crowds: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    return np.zeros(count, np.uint8) if crowds is None else crowds.astype(np.uint8)
