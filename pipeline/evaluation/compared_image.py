"""One image before and after refinement: its instances that show one of its truths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

import numpy as np

from pipeline.coco.model import CocoAnnotation
from pipeline.errors import StoreError
from pipeline.evaluation.coco_matching import Floats
from pipeline.evaluation.truth import ImageTruths
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel
from pipeline.masks.boundaries import Border, border_iou
from pipeline.masks.matching import best_pairs

PAIRED_FROM_IOU = 0.5


@dataclass(frozen=True)
class MatchedInstance:
    """An instance and the truth it shows; boundary IoU is NaN where it was not asked for.

    position: index of the instance in its image.
    """

    position: int
    before: InstanceLabel
    after: InstanceLabel
    truth: CocoAnnotation
    iou_before: float
    iou_after: float
    boundary_iou_before: float
    boundary_iou_after: float


@dataclass(frozen=True)
class ComparedImage:
    """One image's labels before and after refinement, its truths, and the IoU of each with each (D, G)."""

    before: ImageLabels
    after: ImageLabels
    shown: ImageTruths
    ious_before: Floats
    ious_after: Floats

    def pairs(self, *, boundary: bool) -> Iterator[MatchedInstance]:
        """Yield the instances that show a truth, of whatever class, by their index; crowds on both sides left out.

        An instance shows the truth that its mask overlaps, before or after, by at least half; the best overlaps
        are given away first. Comparing both masks favours neither.
        """
        borders: dict[bytes, Border] = {}

        def boundary_iou(instance: InstanceLabel, truth_index: int) -> float:
            if not boundary:
                return nan
            truth = self.shown.masks[truth_index]
            # Where the gate kept the teacher's mask, it is the same before and after.
            for rle in (truth, self.before.rle(instance)):
                if rle["counts"] not in borders:
                    borders[rle["counts"]] = Border.of_rle(rle)
            return border_iou(borders[instance.rle_counts], borders[truth["counts"]])

        # What was dropped before it was refined is a crowd.
        ignored = np.array([each.decision is Decision.DROPPED for each in self.before.instances], np.bool_)
        no_pair = ignored[:, None] | self.shown.truths.crowds[None, :]
        ious = np.where(no_pair, 0.0, np.maximum(self.ious_before, self.ious_after))
        for position, truth_index in sorted(best_pairs(ious, PAIRED_FROM_IOU)):
            before, after = self.before.instances[position], self.after.instances[position]
            yield MatchedInstance(
                position=position,
                before=before,
                after=after,
                truth=self.shown.annotations[truth_index],
                iou_before=float(self.ious_before[position, truth_index]),
                iou_after=float(self.ious_after[position, truth_index]),
                boundary_iou_before=boundary_iou(before, truth_index),
                boundary_iou_after=boundary_iou(after, truth_index),
            )


def require_same_instances(before: ImageLabels, after: ImageLabels) -> None:
    """Refuse labels of which the second are not the first ones refined."""
    kept = [(instance.category_id, instance.score) for instance in before.instances]
    if before.image_id != after.image_id or kept != [(each.category_id, each.score) for each in after.instances]:
        raise StoreError(
            f"image {before.image_id} ({before.file_name}): the refined labels are of image {after.image_id} or of "
            f"other instances than the teacher's. Make the labels again: predict, then refine."
        )
