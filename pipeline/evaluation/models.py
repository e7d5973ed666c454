"""Measures the average precision of a model's detections: masks, boxes and boundaries, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from pipeline.coco.model import CocoDataset
from pipeline.evaluation.average_precision import MIN_IOUS, AveragePrecision, mean_metrics
from pipeline.evaluation.coco_matching import Bools
from pipeline.evaluation.image_sides import ImageTruths, boxes_xywh, strongest_first, with_areas
from pipeline.evaluation.judging import ConfusionCounts, judge
from pipeline.evaluation.results import CategoryResult, Confusion, ModelResult
from pipeline.evaluation.settings import EvaluateSettings
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import ImageLabels, InstanceLabel, Status
from pipeline.masks.boundaries import limited_by_borders
from pipeline.masks.overlap import box_ious, rle_ious

RESAMPLES: Final = 400
MOST_RESAMPLED_IMAGES: Final = 500
"""AP is measured on so many draws of the images, if they are no more than these: its interval is narrow with more."""


@dataclass(frozen=True)
class MeasuredModel:
    """A model to measure.

    node: the node that trained it; iterations: of its training. detections_file: COCO results of its detections,
    relative to the evaluation.
    store: label store of its detections.
    """

    node: str
    role: Literal["teacher", "student"]
    round: int
    detections_file: str
    store: Path
    iterations: int = 0


class _ModelSums:
    def __init__(self, boundary: bool) -> None:
        self.mask, self.box = AveragePrecision(), AveragePrecision()
        self.boundary = AveragePrecision() if boundary else None

    def add(self, labels: ImageLabels, instances: Sequence[InstanceLabel], shown: ImageTruths) -> None:
        """Add an image with its instances that count, the best score first."""
        truths, boxes = shown.truths, boxes_xywh(instances)
        masks = [labels.rle(instance) for instance in instances]
        of_masks = with_areas(instances, [instance.area for instance in instances])
        of_boxes = with_areas(instances, boxes[:, 2] * boxes[:, 3])
        ious = rle_ious(masks, shown.masks, truths.crowds)
        self.mask.add(ious, of_masks, truths)
        self.box.add(box_ious(boxes, shown.boxes_xywh, truths.crowds), of_boxes, truths)
        if self.boundary is not None:
            same_class: Bools = of_masks.categories[:, None] == truths.categories[None, :]
            wanted = same_class & (ious >= MIN_IOUS[0])
            limited = limited_by_borders(ious, masks, shown.masks, truths.crowds, wanted)
            self.boundary.add(limited, of_masks, truths)


def measure_model(model: MeasuredModel, dataset: CocoDataset, settings: EvaluateSettings) -> ModelResult:
    """Measure a model's detections on all images of a dataset; images that failed have no detections."""
    store, sums = LabelStore.open(model.store), _ModelSums(settings.boundary)
    detections = failed_images = 0
    for image_id in sorted(dataset.image_by_id):
        labels = store.by_id(image_id)
        failed_images += labels.status is Status.FAILED
        kept = strongest_first(labels.instances, settings.max_detections)
        detections += len(kept)
        sums.add(labels, [labels.instances[index] for index in kept], ImageTruths.of_image(dataset, image_id))
    confusion = _confusion(store, dataset, sums.mask.best_score())
    return _result(model, sums, dataset, confusion, detections, failed_images)


def _confusion(store: LabelStore, dataset: CocoDataset, min_score: float) -> Confusion:
    counts = ConfusionCounts(sorted(dataset.category_by_id))
    for image_id in dataset.image_by_id:
        labels, shown = store.by_id(image_id), ImageTruths.of_image(dataset, image_id)
        counts.add(labels, shown, judge(labels, shown, min_score))
    return Confusion(min_score, tuple(map(tuple, counts.counts().tolist())))


def _result(
    model: MeasuredModel,
    sums: _ModelSums,
    dataset: CocoDataset,
    confusion: Confusion,
    detections: int,
    failed_images: int,
) -> ModelResult:
    categories = sorted(dataset.categories, key=lambda category: category.id)
    ids = [category.id for category in categories]
    mask, box = sums.mask.by_category(ids), sums.box.by_category(ids)
    boundary = sums.boundary.by_category(ids) if sums.boundary is not None else None
    drawn = sums.mask.resampled(ids, RESAMPLES) if len(dataset.images) <= MOST_RESAMPLED_IMAGES else np.zeros(0)
    return ModelResult(
        node=model.node,
        role=model.role,
        round=model.round,
        images=len(dataset.images),
        failed_images=failed_images,
        detections=detections,
        mask=mean_metrics(mask.values()),
        box=mean_metrics(box.values()),
        boundary=mean_metrics(boundary.values()) if boundary is not None else None,
        categories=tuple(
            CategoryResult(
                category_id=category.id,
                name=category.name,
                truths=mask[category.id].truths,
                mask=mean_metrics([mask[category.id]]),
                box=mean_metrics([box[category.id]]),
                boundary=mean_metrics([boundary[category.id]]) if boundary is not None else None,
            )
            for category in categories
        ),
        detections_file=model.detections_file,
        iterations=model.iterations,
        confusion=confusion,
        resampled_ap=tuple(round(each, 4) for each in drawn.tolist() if not np.isnan(each)),
    )
