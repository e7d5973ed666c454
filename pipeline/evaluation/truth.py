"""The truths of an image, as they are matched with labels.

Crowds stay among them, marked: what lies on a crowd neither rewards nor punishes (see `labels.dataset_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.coco.model import CocoAnnotation, CocoDataset
from pipeline.evaluation.coco_matching import Floats, Truths
from pipeline.masks.run_lengths import CompressedRle


@dataclass(frozen=True)
class ImageTruths:
    """The annotations of one image, in the order of their file, with their masks."""

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
        """Return their boxes, (G, 4)."""
        return np.array([each.bbox for each in self.annotations], np.float64).reshape(-1, 4)
