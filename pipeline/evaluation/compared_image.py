"""Pairs the instances of an image, before and after refinement, with its truths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.errors import StoreError
from pipeline.evaluation.coco_matching import Floats
from pipeline.evaluation.image_sides import ImageTruths
from pipeline.evaluation.results import InstanceChange
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel
from pipeline.masks.boundaries import Border, border_iou
from pipeline.masks.matching import best_pairs

PAIRED_FROM_IOU = 0.5


@dataclass(frozen=True)
class ComparedImage:
    """The labels of an image before and after refinement, its truths, and the IoU of labels with truths (D, G)."""

    before: ImageLabels
    after: ImageLabels
    shown: ImageTruths
    ious_before: Floats
    ious_after: Floats

    def pairs(self, *, boundary: bool) -> Iterator[InstanceChange]:
        """Yield the instances with a truth of any class, by index; crowds and dropped labels are left out.

        An instance is paired with a truth if its mask before or after has an IoU of at least 0.5 with it, the largest
        IoUs first. Using both masks favours neither.
        """
        borders: dict[bytes, Border] = {}

        def boundary_iou(instance: InstanceLabel, truth_index: int) -> float | None:
            if not boundary:
                return None
            truth = self.shown.masks[truth_index]
            # The mask is the same before and after if the gate kept the teacher's.
            for rle in (truth, self.before.rle(instance)):
                if rle["counts"] not in borders:
                    borders[rle["counts"]] = Border.of_rle(rle)
            return border_iou(borders[instance.rle_counts], borders[truth["counts"]])

        # An instance that was dropped before refinement is a crowd.
        ignored = np.array([each.decision is Decision.DROPPED for each in self.before.instances], np.bool_)
        no_pair = ignored[:, None] | self.shown.truths.crowds[None, :]
        ious = np.where(no_pair, 0.0, np.maximum(self.ious_before, self.ious_after))
        for position, truth_index in sorted(best_pairs(ious, PAIRED_FROM_IOU)):
            before, after = self.before.instances[position], self.after.instances[position]
            truth = self.shown.annotations[truth_index]
            x, y, width, height = truth.bbox
            x0s, y0s, x1s, y1s = zip(before.box_xyxy, after.box_xyxy, (x, y, x + width, y + height), strict=True)
            yield InstanceChange(
                image_id=self.after.image_id,
                file_name=self.after.file_name,
                position=position,
                category_id=after.category_id,
                truth_id=truth.id,
                truth_category_id=truth.category_id,
                score=after.score,
                mask_score=after.mask_score,
                decision=after.decision,
                box_xyxy=(float(min(x0s)), float(min(y0s)), float(max(x1s)), float(max(y1s))),
                iou_before=float(self.ious_before[position, truth_index]),
                iou_after=float(self.ious_after[position, truth_index]),
                boundary_iou_before=boundary_iou(before, truth_index),
                boundary_iou_after=boundary_iou(after, truth_index),
            )


def require_same_instances(before: ImageLabels, after: ImageLabels) -> None:
    """Raise StoreError unless the second labels are the first ones refined."""
    kept = [(instance.category_id, instance.score) for instance in before.instances]
    if before.image_id != after.image_id or kept != [(each.category_id, each.score) for each in after.instances]:
        raise StoreError(
            f"image {before.image_id} ({before.file_name}): the refined labels are of image {after.image_id} or of "
            f"other instances than the teacher's. Make the labels again: predict, then refine."
        )
