"""Average precision of one model's detections: masks, boxes and boundaries, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.coco.model import CocoDataset
from pipeline.evaluation.average_precision import MIN_IOUS, AveragePrecision, mean_metrics
from pipeline.evaluation.coco_matching import Bools
from pipeline.evaluation.detections import boxes_xywh, strongest_first, with_box_areas, with_mask_areas
from pipeline.evaluation.results import CategoryResult, ModelResult
from pipeline.evaluation.settings import EvaluateSettings
from pipeline.evaluation.truth import ImageTruths
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import ImageLabels, InstanceLabel, Status
from pipeline.masks.boundaries import limited_by_borders
from pipeline.masks.overlap import box_ious, rle_ious


@dataclass(frozen=True)
class MeasuredModel:
    """Which model is measured: the node that trained it, and where its detections are written for others."""

    node: str
    role: Literal["teacher", "student"]
    round: int
    detections_file: str


class _ModelSums:
    """Average precision of masks, of boxes and, where wanted, of boundaries."""

    def __init__(self, boundary: bool) -> None:
        self.mask, self.box = AveragePrecision(), AveragePrecision()
        self.boundary = AveragePrecision() if boundary else None

    def add(self, labels: ImageLabels, instances: Sequence[InstanceLabel], shown: ImageTruths) -> None:
        """Add an image and those of its instances that count, the best score first."""
        truths = shown.truths
        masks = [labels.rle(instance) for instance in instances]
        of_masks, of_boxes = with_mask_areas(instances), with_box_areas(instances)
        ious = rle_ious(masks, shown.masks, truths.crowds)
        self.mask.add(ious, of_masks, truths)
        self.box.add(box_ious(boxes_xywh(instances), shown.boxes_xywh, truths.crowds), of_boxes, truths)
        if self.boundary is not None:
            same_class: Bools = of_masks.categories[:, None] == truths.categories[None, :]
            wanted = same_class & (ious >= MIN_IOUS[0])
            limited = limited_by_borders(ious, masks, shown.masks, truths.crowds, wanted)
            self.boundary.add(limited, of_masks, truths)


def measure_model(
    model: MeasuredModel, store: LabelStore, dataset: CocoDataset, settings: EvaluateSettings
) -> ModelResult:
    """Measure the detections of a store on all images of a dataset; images that failed show nothing found."""
    sums = _ModelSums(settings.boundary)
    detections = failed_images = 0
    for image_id in sorted(dataset.image_by_id):
        labels = store.by_id(image_id)
        failed_images += labels.status is Status.FAILED
        kept = strongest_first(labels.instances, settings.max_detections)
        detections += len(kept)
        sums.add(labels, [labels.instances[index] for index in kept], ImageTruths.of_image(dataset, image_id))
    return _result(model, sums, dataset, detections, failed_images)


def _result(
    model: MeasuredModel, sums: _ModelSums, dataset: CocoDataset, detections: int, failed_images: int
) -> ModelResult:
    categories = sorted(dataset.categories, key=lambda category: category.id)
    ids = [category.id for category in categories]
    mask, box = sums.mask.by_category(ids), sums.box.by_category(ids)
    boundary = sums.boundary.by_category(ids) if sums.boundary is not None else None
    return ModelResult(
        node=model.node,
        role=model.role,
        round=model.round,
        images=len(dataset.images),
        failed_images=failed_images,
        detections=detections,
        mask=mean_metrics(list(mask.values())),
        box=mean_metrics(list(box.values())),
        boundary=mean_metrics(list(boundary.values())) if boundary is not None else None,
        categories=tuple(
            CategoryResult(
                category_id=category.id,
                name=category.name,
                truths=mask[category.id].truths,
                mask=mask[category.id].metrics(),
                box=box[category.id].metrics(),
                boundary=boundary[category.id].metrics() if boundary is not None else None,
            )
            for category in categories
        ),
        detections_file=model.detections_file,
    )
