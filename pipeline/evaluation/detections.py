"""Labels of an image as what is matched with its truths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.evaluation.coco_matching import Detections, Floats
from pipeline.labels.rows import InstanceLabel


def strongest_first(instances: Sequence[InstanceLabel], max_detections: int) -> list[int]:
    """Return the indices of the instances that count, best score first: at most so many a class; equals in order."""
    scores = np.array([instance.score for instance in instances], np.float64)
    seen: dict[int, int] = {}
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        category = instances[index].category_id
        seen[category] = seen.get(category, 0) + 1
        if seen[category] <= max_detections:
            kept.append(index)
    return kept


def with_mask_areas(instances: Sequence[InstanceLabel]) -> Detections:
    """Return the instances with the areas of their masks."""
    return _detections(instances, np.array([instance.area for instance in instances], np.float64))


def with_box_areas(instances: Sequence[InstanceLabel]) -> Detections:
    """Return the instances with the areas of their boxes."""
    boxes = boxes_xywh(instances)
    return _detections(instances, boxes[:, 2] * boxes[:, 3])


def boxes_xywh(instances: Sequence[InstanceLabel]) -> Floats:
    """Return left, top, width and height of every instance's box, (D, 4)."""
    boxes = np.array([instance.box_xyxy for instance in instances], np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _detections(instances: Sequence[InstanceLabel], areas: Floats) -> Detections:
    return Detections(
        categories=np.array([instance.category_id for instance in instances], np.int64),
        scores=np.array([instance.score for instance in instances], np.float64),
        areas=areas,
    )
