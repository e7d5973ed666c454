"""Pseudo-labels against a truth that was kept aside: how good they were before refinement, and are after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Final

import numpy as np

from pipeline.coco.model import CocoDataset
from pipeline.evaluation.average_precision import AREA_RANGES
from pipeline.evaluation.changes import LargestChanges
from pipeline.evaluation.coco_matching import Bools, Floats, Ints, match
from pipeline.evaluation.compared_image import ComparedImage, MatchedInstance, require_same_instances
from pipeline.evaluation.detections import strongest_first, with_mask_areas
from pipeline.evaluation.results import (
    DecisionResult,
    LabelQuality,
    MaskFigures,
    PrecisionRecall,
    PseudoLabelResult,
)
from pipeline.evaluation.truth import ImageTruths
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status
from pipeline.masks.overlap import rle_ious

MIN_IOUS: Final[Floats] = np.array([0.5, 0.75, 0.9])
HISTOGRAM_BINS: Final = 20
_DECISIONS: Final = tuple(Decision)


@dataclass(frozen=True)
class LabelNodes:
    """The nodes whose labels are compared, and their round."""

    round: int
    predict: str
    refine: str


def measure_pseudo_labels(
    nodes: LabelNodes, predicted: LabelStore, refined: LabelStore, truth: CocoDataset, *, boundary: bool
) -> PseudoLabelResult:
    """Compare the labels of both stores with the truth, image by image.

    Images without usable labels are left out. StoreError where the stores are not of the same instances.
    """
    sums = _LabelSums()
    images = failed_images = 0
    for before, after in zip(predicted, refined, strict=True):
        if Status.FAILED in (before.status, after.status):
            failed_images += 1
            continue
        require_same_instances(before, after)
        images += 1
        sums.add(_compared(before, after, ImageTruths.of_image(truth, before.image_id)), boundary=boundary)
    return sums.result(nodes, images, failed_images)


def _compared(before: ImageLabels, after: ImageLabels, shown: ImageTruths) -> ComparedImage:
    ious_before, ious_after = (
        rle_ious([labels.rle(instance) for instance in labels.instances], shown.masks, shown.truths.crowds)
        for labels in (before, after)
    )
    return ComparedImage(before, after, shown, ious_before, ious_after)


class _Matched:
    """Right and wrong labels at each of MIN_IOUS, summed up over images."""

    def __init__(self) -> None:
        self._labels = self._truths = 0
        self._right, self._wrong = np.zeros(len(MIN_IOUS), np.int64), np.zeros(len(MIN_IOUS), np.int64)

    def add(self, instances: Sequence[InstanceLabel], ious: Floats, shown: ImageTruths) -> None:
        """Add an image: its labels, dropped ones included, and their IoU with its truths (D, G)."""
        usable = [index for index, each in enumerate(instances) if each.decision is not Decision.DROPPED]
        labels = [instances[index] for index in usable]
        order = strongest_first(labels, len(labels))
        detections = with_mask_areas([labels[index] for index in order])
        own_ious = ious[np.array(usable, np.int64)[order]]
        matches = match(own_ious, detections, shown.truths, MIN_IOUS, AREA_RANGES[:1])
        self._labels += len(labels)
        self._truths += int(matches.counted.sum())
        self._right += matches.right.sum(axis=(0, 1))
        self._wrong += matches.wrong.sum(axis=(0, 1))

    @property
    def truths(self) -> int:
        """Count the truths in the images added, crowds left out."""
        return self._truths

    def quality(self, ious: Floats, boundary_ious: Floats) -> LabelQuality:
        """Return the figures, with the IoU of the paired instances."""
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
            missed=self._truths - right,
            precision=right / (right + wrong) if right + wrong else None,
            recall=right / self._truths if self._truths else None,
        )


class _LabelSums:
    """What is kept of all images: counts, and of each paired instance a few numbers."""

    def __init__(self) -> None:
        self._before, self._after = _Matched(), _Matched()
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
            if before.decision is not Decision.DROPPED:  # a crowd is no instance
                self._instances[_DECISIONS.index(after.decision)] += 1
        pairs = list(image.pairs(boundary=boundary))
        right = [pair.after.category_id == pair.truth.category_id for pair in pairs]
        self._class_right.append(np.array(right, np.bool_))
        self._decisions.append(np.array([_DECISIONS.index(pair.after.decision) for pair in pairs], np.int64))
        self._ious.append(np.array([_pair_ious(pair) for pair in pairs], np.float64).reshape(-1, 4))
        for pair in pairs:
            self._changes.add(image.after, pair)

    def result(self, nodes: LabelNodes, images: int, failed_images: int) -> PseudoLabelResult:
        """Return all figures."""
        decisions = np.concatenate([np.zeros(0, np.int64), *self._decisions])
        class_right = np.concatenate([np.zeros(0, np.bool_), *self._class_right])
        ious = np.concatenate([np.zeros((0, 4)), *self._ious])
        before, boundary_before, after, boundary_after = ious.T
        return PseudoLabelResult(
            round=nodes.round,
            predict_node=nodes.predict,
            refine_node=nodes.refine,
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


def _pair_ious(pair: MatchedInstance) -> tuple[float, float, float, float]:
    return pair.iou_before, pair.boundary_iou_before, pair.iou_after, pair.boundary_iou_after


def _figures(ious: Floats, boundary_ious: Floats) -> MaskFigures:
    return MaskFigures(
        count=len(ious),
        mean_iou=_mean(ious),
        mean_boundary_iou=_mean(boundary_ious),
        share_75=_share(ious >= 0.75),
        share_90=_share(ious >= 0.9),
    )


def _mean(values: Floats) -> float | None:
    """Return the mean; None for no values, and for those that were not asked for."""
    mean = float(values.mean()) if values.size else None
    return None if mean is None or isnan(mean) else mean


def _share(reached: Bools) -> float | None:
    return float(reached.mean()) if reached.size else None
