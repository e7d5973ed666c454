"""The instances that refinement changed most, for better and for worse."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Final

import numpy as np

from pipeline.evaluation.compared_image import MatchedInstance
from pipeline.evaluation.results import InstanceChange
from pipeline.labels.rows import ImageLabels
from pipeline.masks.windows import BoxXyxy

KEPT: Final = 200
"""Instances kept of each kind."""

_PRUNED_AT: Final = 10 * KEPT


class LargestChanges:
    """Takes the paired instances of all images, keeps those whose mask IoU changed most."""

    def __init__(self) -> None:
        self._changes: list[InstanceChange] = []

    def add(self, labels: ImageLabels, pair: MatchedInstance) -> None:
        """Add an instance of an image."""
        if pair.iou_before != pair.iou_after:
            self._changes.append(_change(labels, pair))
        if len(self._changes) == _PRUNED_AT:
            self._changes = [*self.improved(), *self.harmed()]

    def improved(self) -> tuple[InstanceChange, ...]:
        """Those whose IoU rose, the largest rise first."""
        risen = [change for change in self._changes if change.iou_after > change.iou_before]
        return tuple(sorted(risen, key=_order)[:KEPT])

    def harmed(self) -> tuple[InstanceChange, ...]:
        """Those whose IoU fell, the largest fall first."""
        fallen = [change for change in self._changes if change.iou_after < change.iou_before]
        return tuple(sorted(fallen, key=_order)[:KEPT])


def _order(change: InstanceChange) -> tuple[float, int, int]:
    return -abs(change.iou_after - change.iou_before), change.image_id, change.position


def _change(labels: ImageLabels, pair: MatchedInstance) -> InstanceChange:
    x, y, width, height = pair.truth.bbox
    boxes_xyxy = [pair.before.box_xyxy, pair.after.box_xyxy, (x, y, x + width, y + height)]
    return InstanceChange(
        image_id=labels.image_id,
        file_name=labels.file_name,
        position=pair.position,
        category_id=pair.after.category_id,
        truth_id=pair.truth.id,
        truth_category_id=pair.truth.category_id,
        score=pair.after.score,
        decision=pair.after.decision,
        box_xyxy=_around(boxes_xyxy),
        iou_before=pair.iou_before,
        iou_after=pair.iou_after,
        boundary_iou_before=None if isnan(pair.boundary_iou_before) else pair.boundary_iou_before,
        boundary_iou_after=None if isnan(pair.boundary_iou_after) else pair.boundary_iou_after,
    )


def _around(boxes_xyxy: Sequence[BoxXyxy]) -> BoxXyxy:
    boxes = np.array(boxes_xyxy)
    x0, y0 = boxes[:, :2].min(axis=0).tolist()
    x1, y1 = boxes[:, 2:].max(axis=0).tolist()
    return x0, y0, x1, y1
