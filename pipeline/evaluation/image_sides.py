"""The two sides that are matched in an image: its labels, as detections, and its truths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.coco.model import CocoAnnotation, CocoDataset
from pipeline.evaluation.coco_matching import Detections, Floats, Truths
from pipeline.labels.rows import InstanceLabel
from pipeline.masks.run_lengths import CompressedRle


def strongest_first(instances: Sequence[InstanceLabel], max_detections: int) -> list[int]:
    """Return the indices of the instances, the best score first, at most `max_detections` per class."""
    scores = np.array([instance.score for instance in instances], np.float64)
    seen: dict[int, int] = {}
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        category = instances[index].category_id
        seen[category] = seen.get(category, 0) + 1
        if seen[category] <= max_detections:
            kept.append(index)
    return kept


def with_areas(instances: Sequence[InstanceLabel], areas: Sequence[float] | Floats) -> Detections:
    """Return the instances as detections with these areas."""
    return Detections(
        categories=np.array([instance.category_id for instance in instances], np.int64),
        scores=np.array([instance.score for instance in instances], np.float64),
        areas=np.array(areas, np.float64),
    )


def boxes_xywh(instances: Sequence[InstanceLabel]) -> Floats:
    """Return the boxes of the instances, (D, 4)."""
    boxes = np.array([instance.box_xyxy for instance in instances], np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


@dataclass(frozen=True)
class ImageTruths:
    """The annotations of one image, in the order of their file, with their masks.

    Crowds are included and marked: a label on a crowd is neither right nor wrong (see `labels.dataset_rows`).
    """

    annotations: tuple[CocoAnnotation, ...]
    masks: tuple[CompressedRle, ...]
    truths: Truths

    @classmethod
    def of_image(cls, dataset: CocoDataset, image_id: int) -> ImageTruths:
        """Collect the truths of an image of a dataset."""
        annotations = dataset.annotations_by_image[image_id]
        truths = Truths(
            categories=np.array([each.category_id for each in annotations], np.int64),
            areas=np.array([each.area for each in annotations], np.float64),
            crowds=np.array([bool(each.iscrowd) for each in annotations], np.bool_),
        )
        return cls(annotations, tuple(dataset.rle(each) for each in annotations), truths)

    @property
    def boxes_xywh(self) -> Floats:
        """Return the boxes of the annotations, (G, 4)."""
        return np.array([each.bbox for each in self.annotations], np.float64).reshape(-1, 4)
