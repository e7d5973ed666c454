"""Measures pseudo-labels, before and after refinement, against a truth that training did not use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.coco.model import CocoDataset
from pipeline.evaluation.average_precision import AREA_RANGES
from pipeline.evaluation.changes import LargestChanges
from pipeline.evaluation.class_votes import ClassVotes
from pipeline.evaluation.coco_matching import Bools, Floats, Ints, match
from pipeline.evaluation.compared_image import ComparedImage, require_same_instances
from pipeline.evaluation.image_sides import ImageTruths, strongest_first, with_areas
from pipeline.evaluation.results import DecisionResult, LabelQuality, MaskFigures, PrecisionRecall, PseudoLabelResult
from pipeline.labels.class_check import NO_CHECK, ClassCheck
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status
from pipeline.masks.overlap import rle_ious

MIN_IOUS: Final[Floats] = np.array([0.5, 0.75, 0.9])
HISTOGRAM_BINS: Final = 40
_DECISIONS: Final = tuple(Decision)


@dataclass(frozen=True)
class LabelsToMeasure:
    """The labels of one round: the nodes that made them, and their stores, before and after refinement."""

    round: int
    predict_node: str
    refine_node: str
    predicted: Path
    refined: Path


def measure_pseudo_labels(
    labels: LabelsToMeasure, truth: CocoDataset, *, boundary: bool, class_check: ClassCheck = NO_CHECK
) -> PseudoLabelResult:
    """Compare the labels of both stores with the truth, image by image. class_check: says which classes are doubted.

    Images without usable labels and images that the truth does not have are left out. Raise StoreError if the stores
    do not have the same instances.
    """
    sums = _LabelSums(class_check)
    images = failed_images = 0
    for before, after in zip(LabelStore.open(labels.predicted), LabelStore.open(labels.refined), strict=True):
        if before.image_id not in truth.image_by_id:
            continue
        if Status.FAILED in (before.status, after.status):
            failed_images += 1
            continue
        require_same_instances(before, after)
        images += 1
        sums.add(_compared(before, after, ImageTruths.of_image(truth, before.image_id)), boundary=boundary)
    return sums.result(labels, images, failed_images)


def _compared(before: ImageLabels, after: ImageLabels, shown: ImageTruths) -> ComparedImage:
    ious_before, ious_after = (
        rle_ious([labels.rle(instance) for instance in labels.instances], shown.masks, shown.truths.crowds)
        for labels in (before, after)
    )
    return ComparedImage(before, after, shown, ious_before, ious_after)


class _Matched:
    """Numbers of right and wrong labels at each of MIN_IOUS, and of truths, crowds left out."""

    def __init__(self) -> None:
        self.truths = self._labels = 0
        self._right, self._wrong = np.zeros(len(MIN_IOUS), np.int64), np.zeros(len(MIN_IOUS), np.int64)

    def add(self, instances: Sequence[InstanceLabel], ious: Floats, shown: ImageTruths) -> None:
        """Add an image: its labels, dropped ones included, and their IoU with its truths (D, G)."""
        usable = [index for index, each in enumerate(instances) if each.decision is not Decision.DROPPED]
        labels = [instances[index] for index in usable]
        order = strongest_first(labels, len(labels))
        detections = with_areas([labels[index] for index in order], [labels[index].area for index in order])
        own_ious = ious[np.array(usable, np.int64)[order]]
        matches = match(own_ious, detections, shown.truths, MIN_IOUS, AREA_RANGES[:1])
        self._labels += len(labels)
        self.truths += int(matches.counted.sum())
        self._right += matches.right.sum(axis=(0, 1))
        self._wrong += matches.wrong.sum(axis=(0, 1))

    def quality(self, ious: Floats, boundary_ious: Floats) -> LabelQuality:
        """Return the figures; the IoUs are those of the paired instances."""
        histogram, _ = np.histogram(ious, bins=HISTOGRAM_BINS, range=(0, 1))
        at = zip(MIN_IOUS.tolist(), self._right.tolist(), self._wrong.tolist(), strict=True)
        return LabelQuality(
            labels=self._labels,
            at=tuple(self._at(min_iou, right, wrong) for min_iou, right, wrong in at),
            paired=_figures(ious, boundary_ious),
            iou_histogram=tuple(histogram.tolist()),
        )

    def _at(self, min_iou: float, right: int, wrong: int) -> PrecisionRecall:
        return PrecisionRecall(
            min_iou=min_iou,
            true_positives=right,
            false_positives=wrong,
            missed=self.truths - right,
            precision=right / (right + wrong) if right + wrong else None,
            recall=right / self.truths if self.truths else None,
        )


class _LabelSums:
    """Counts over all images, and a few numbers of each paired instance."""

    def __init__(self, class_check: ClassCheck) -> None:
        self._before, self._after = _Matched(), _Matched()
        self._votes = ClassVotes(class_check)
        self._instances = np.zeros(len(_DECISIONS), np.int64)
        self._decisions: list[Ints] = []
        self._class_right: list[Bools] = []
        self._ious: list[Floats] = []
        self._changes = LargestChanges()

    def add(self, image: ComparedImage, *, boundary: bool) -> None:
        """Add an image."""
        self._before.add(image.before.instances, image.ious_before, image.shown)
        self._after.add(image.after.instances, image.ious_after, image.shown)
        for before, after in zip(image.before.instances, image.after.instances, strict=True):
            if before.decision is not Decision.DROPPED:  # dropped before refinement: a crowd
                self._instances[_DECISIONS.index(after.decision)] += 1
        pairs = list(image.pairs(boundary=boundary))
        self._class_right.append(np.array([pair.category_id == pair.truth_category_id for pair in pairs], np.bool_))
        self._decisions.append(np.array([_DECISIONS.index(pair.decision) for pair in pairs], np.int64))
        ious = [(each.iou_before, each.boundary_iou_before, each.iou_after, each.boundary_iou_after) for each in pairs]
        self._ious.append(np.array(ious, np.float64).reshape(-1, 4))  # NaN for None
        self._votes.add(image.after, pairs)
        for pair in pairs:
            self._changes.add(pair)

    def result(self, labels: LabelsToMeasure, images: int, failed_images: int) -> PseudoLabelResult:
        """Return all figures."""
        decisions = np.concatenate([np.zeros(0, np.int64), *self._decisions])
        class_right = np.concatenate([np.zeros(0, np.bool_), *self._class_right])
        ious = np.concatenate([np.zeros((0, 4)), *self._ious])
        before, boundary_before, after, boundary_after = ious.T
        return PseudoLabelResult(
            round=labels.round,
            predict_node=labels.predict_node,
            refine_node=labels.refine_node,
            images=images,
            failed_images=failed_images,
            truths=self._before.truths,
            paired=len(ious),
            class_accuracy=_share(class_right),
            before=self._before.quality(before, boundary_before),
            after=self._after.quality(after, boundary_after),
            decisions=tuple(
                self._decision(decision, ious[decisions == index], class_right[decisions == index])
                for index, decision in enumerate(_DECISIONS)
            ),
            most_improved=self._changes.improved(),
            most_harmed=self._changes.harmed(),
            class_check=self._votes.result(),
        )

    def _decision(self, decision: Decision, ious: Floats, class_right: Bools) -> DecisionResult:
        before, boundary_before, after, boundary_after = ious.T
        return DecisionResult(
            decision=decision,
            instances=int(self._instances[_DECISIONS.index(decision)]),
            class_accuracy=_share(class_right),
            before=_figures(before, boundary_before),
            after=_figures(after, boundary_after),
        )


def _figures(ious: Floats, boundary_ious: Floats) -> MaskFigures:
    return MaskFigures(
        count=len(ious),
        mean_iou=_mean(ious),
        mean_boundary_iou=_mean(boundary_ious),
        share_75=_share(ious >= 0.75),
        share_90=_share(ious >= 0.9),
    )


def _mean(values: Floats) -> float | None:
    """Return the mean; None without values, or if they were not measured."""
    mean = float(values.mean()) if values.size else None
    return None if mean is None or isnan(mean) else mean


def _share(reached: Bools) -> float | None:
    return float(reached.mean()) if reached.size else None
