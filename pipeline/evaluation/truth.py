"""What an image truly shows, and how far labels lie on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from pipeline.coco.model import CocoAnnotation, CocoDataset
from pipeline.evaluation.matching import Bools, Floats, Truths
from pipeline.masks.run_lengths import CompressedRle


@dataclass(frozen=True)
class ImageTruths:
    """The annotations of one image, in the order of their file, with their masks."""

    annotations: tuple[CocoAnnotation, ...]
    masks: tuple[CompressedRle, ...]
    truths: Truths

    @classmethod
    def of_image(cls, dataset: CocoDataset, image_id: int) -> ImageTruths:
        """The truths of an image of a dataset."""
        annotations = dataset.annotations_by_image[image_id]
        truths = Truths(
            categories=np.array([each.category_id for each in annotations], np.int64),
            areas=np.array([each.area for each in annotations], np.float64),
            crowds=np.array([bool(each.iscrowd) for each in annotations], np.bool_),
        )
        return cls(annotations, tuple(dataset.rle(each) for each in annotations), truths)

    @property
    def boxes_xywh(self) -> Floats:
        """Their boxes, (G, 4)."""
        return np.array([each.bbox for each in self.annotations], np.float64).reshape(-1, 4)


def mask_ious(masks: Sequence[CompressedRle], truths: Sequence[CompressedRle], crowds: Bools) -> Floats:
    """IoU of every mask with every truth, (D, G); of a crowd, the share of the mask that lies in it."""
    if not masks or not truths:
        return np.zeros((len(masks), len(truths)))
    ious: Floats = coco_mask.iou(list(masks), list(truths), crowds.astype(np.uint8))
    return ious


def box_ious(boxes_xywh: Floats, truths_xywh: Floats, crowds: Bools) -> Floats:
    """IoU of every box (D, 4) with every truth's (G, 4), as (D, G); of a crowd, the share that lies in it."""
    if not len(boxes_xywh) or not len(truths_xywh):
        return np.zeros((len(boxes_xywh), len(truths_xywh)))
    ious: Floats = coco_mask.iou(boxes_xywh, truths_xywh, crowds.astype(np.uint8))
    return ious
