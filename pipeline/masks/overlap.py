"""How good masks are: mask IoU, boundary IoU, and what a set of them amounts to.

Boundary IoU is that of Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation"
(CVPR 2021): the IoU of the two masks' inner borders, each as wide as a share of the image's diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, hypot

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.masks.run_lengths import CompressedRle

BOUNDARY_SHARE = 0.02
"""Width of the border that boundary IoU looks at, as a share of the image's diagonal."""

BoolMask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskQuality:
    """One mask against its truth, both in 0..1."""

    iou: float
    boundary_iou: float


@dataclass(frozen=True)
class QualitySummary:
    """Many masks against their truths: means, and the share of masks whose IoU reaches 0.75 and 0.9."""

    count: int
    mean_iou: float
    mean_boundary_iou: float
    share_75: float
    share_90: float


def mask_iou(first: BoolMask, second: BoolMask) -> float:
    """IoU of two masks (h, w) of one frame; 0 if both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 0.0


def boundary_width_px(height: int, width: int) -> int:
    """Width of the border for an image of this size: 2 % of its diagonal, at least one pixel."""
    return max(1, round(BOUNDARY_SHARE * hypot(height, width)))


def inner_boundary(mask: BoolMask, width_px: int) -> BoolMask:
    """The pixels of a mask (h, w) that lie within `width_px` of its outside, counted like a king's moves.

    Whatever lies beyond the array is outside, so a crop around the mask gives what the whole image gives.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    distance_px = cv2.distanceTransform(padded, cv2.DIST_C, 3)[1:-1, 1:-1]
    boundary: BoolMask = mask & (distance_px <= width_px)
    return boundary


def boundary_iou(first: BoolMask, second: BoolMask, width_px: int) -> float:
    """IoU of the inner borders of two masks (h, w) of one frame; 0 if both are empty."""
    return mask_iou(inner_boundary(first, width_px), inner_boundary(second, width_px))


def measure(mask: CompressedRle, truth: CompressedRle) -> MaskQuality:
    """Compare a mask with its truth; both in pycocotools' RLE, of one image."""
    height, width = truth["size"]
    x0, y0, x1, y1 = _union_box(mask, truth)
    mask_crop, truth_crop = (coco_mask.decode(rle)[y0:y1, x0:x1].astype(np.bool_) for rle in (mask, truth))
    return MaskQuality(
        iou=mask_iou(mask_crop, truth_crop),
        boundary_iou=boundary_iou(mask_crop, truth_crop, boundary_width_px(height, width)),
    )


def _union_box(*rles: CompressedRle) -> tuple[int, int, int, int]:
    boxes_xywh = [coco_mask.toBbox(rle) for rle in rles if coco_mask.area(rle)]
    if not boxes_xywh:
        return 0, 0, 0, 0
    boxes_xyxy = np.stack([np.concatenate([box[:2], box[:2] + box[2:]]) for box in boxes_xywh])
    return (
        floor(boxes_xyxy[:, 0].min()),
        floor(boxes_xyxy[:, 1].min()),
        ceil(boxes_xyxy[:, 2].max()),
        ceil(boxes_xyxy[:, 3].max()),
    )


def match_to_truth(
    masks: Sequence[CompressedRle], truths: Sequence[CompressedRle], min_iou: float = 0.5
) -> list[int | None]:
    """For each mask the index of the truth it shows, or None; each truth is given away once.

    Pairs are taken in the order of their IoU, the best first, down to `min_iou`.
    """
    matches: list[int | None] = [None] * len(masks)
    if masks and truths:
        for mask_index, truth_index in best_pairs(coco_mask.iou(list(masks), list(truths), [0] * len(truths)), min_iou):
            matches[mask_index] = truth_index
    return matches


def best_pairs(ious: NDArray[np.float64], min_iou: float) -> list[tuple[int, int]]:
    """Rows and columns of (D, G) paired by their IoU, the best first, each used once; sorted by row."""
    rows, columns = np.nonzero(ious >= min_iou)
    best_first = np.argsort(-ious[rows, columns], kind="stable")
    paired: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[best_first].tolist(), columns[best_first].tolist(), strict=True):
        if row not in paired and column not in taken:
            paired[row] = column
            taken.add(column)
    return sorted(paired.items())


def summarise(qualities: Sequence[MaskQuality]) -> QualitySummary:
    """What a set of masks amounts to; all zeros for an empty one."""
    if not qualities:
        return QualitySummary(0, 0.0, 0.0, 0.0, 0.0)
    ious = np.array([quality.iou for quality in qualities])
    boundary_ious = np.array([quality.boundary_iou for quality in qualities])
    return QualitySummary(
        count=len(qualities),
        mean_iou=float(ious.mean()),
        mean_boundary_iou=float(boundary_ious.mean()),
        share_75=float((ious >= 0.75).mean()),
        share_90=float((ious >= 0.9).mean()),
    )
