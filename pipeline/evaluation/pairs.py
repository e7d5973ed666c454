"""The instances of an image that show one of its truths, before and after refinement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

import numpy as np

from pipeline.coco.model import CocoAnnotation
from pipeline.errors import StoreError
from pipeline.evaluation.boundary import Border, border_iou
from pipeline.evaluation.matching import Floats
from pipeline.evaluation.truth import ImageTruths
from pipeline.labels.rows import ImageLabels, InstanceLabel
from pipeline.masks.overlap import best_pairs

PAIRED_FROM_IOU = 0.5


@dataclass(frozen=True)
class Pair:
    """An instance and the truth it shows; boundary IoU is NaN where it was not asked for.

    position: the instance's place in its image.
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
class RefinedImage:
    """One image's labels before and after refinement, its truths, and the IoU of each with each (D, G)."""

    before: ImageLabels
    after: ImageLabels
    shown: ImageTruths
    ious_before: Floats
    ious_after: Floats

    def pairs(self, *, boundary: bool) -> Iterator[Pair]:
        """The instances that show a truth, of whatever class, crowds left out.

        An instance shows the truth that its mask overlaps, before or after, by at least half; the best
        overlaps are given away first. Looking at both favours neither.
        """
        borders: dict[bytes, Border] = {}

        def boundary_iou(instance: InstanceLabel, place: int) -> float:
            if not boundary:
                return nan
            truth = self.shown.masks[place]
            # Where the gate kept the teacher's mask, it is the same before and after.
            for rle in (truth, self.before.rle(instance)):
                if rle["counts"] not in borders:
                    borders[rle["counts"]] = Border.of_rle(rle)
            return border_iou(borders[instance.rle_counts], borders[truth["counts"]])

        ious = np.where(self.shown.truths.crowds[None, :], 0.0, np.maximum(self.ious_before, self.ious_after))
        for position, place in best_pairs(ious, PAIRED_FROM_IOU):
            before, after = self.before.instances[position], self.after.instances[position]
            yield Pair(
                position=position,
                before=before,
                after=after,
                truth=self.shown.annotations[place],
                iou_before=float(self.ious_before[position, place]),
                iou_after=float(self.ious_after[position, place]),
                boundary_iou_before=boundary_iou(before, place),
                boundary_iou_after=boundary_iou(after, place),
            )


def require_same_instances(before: ImageLabels, after: ImageLabels) -> None:
    """Refuse labels of which the second are not the first ones refined."""
    kept = [(instance.category_id, instance.score) for instance in before.instances]
    if before.image_id != after.image_id or kept != [(each.category_id, each.score) for each in after.instances]:
        raise StoreError(
            f"image {before.image_id} ({before.file_name}): the refined labels are of image {after.image_id} or of "
            f"other instances than the teacher's. Make the labels again: predict, then refine."
        )
