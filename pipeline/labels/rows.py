"""Labels as plain frozen values: an image with its instances."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.labels.soft_mask import SoftMask
from pipeline.masks.run_lengths import CompressedRle

BoxXyxy = tuple[float, float, float, float]


class Status(StrEnum):
    """How an image fared."""

    OK = "ok"
    EMPTY = "empty"
    FAILED = "failed"


class Decision(StrEnum):
    """Whose mask an instance has. A dropped one keeps the teacher's mask: its pixels are to be ignored."""

    SAM = "sam"
    TEACHER = "teacher"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class InstanceLabel:
    """One instance of an image. What does not apply is None.

    score: the detector's confidence in the class, 0 to 1.
    box_xyxy: left, top, right, bottom in pixels of the full image, right and bottom exclusive.
    rle_counts: the mask as pycocotools' compressed run lengths, in the size of the image.
    area: pixels of the mask.
    predicted_iou: SAM's own estimate of the mask's IoU; the head that makes it may leave 0 to 1.
    stability: IoU of SAM's mask under a shift of its threshold, 0 to 1.
    agreement: IoU of SAM's mask and the teacher's, 0 to 1.
    candidate: which of SAM's candidates was chosen, 0 to 127.
    gate_confidence: how sure the gate is of the mask, 0 to 1; 0 where it was dropped.
    """

    category_id: int
    score: float
    box_xyxy: BoxXyxy
    rle_counts: bytes
    area: int
    decision: Decision
    predicted_iou: float | None = None
    stability: float | None = None
    agreement: float | None = None
    candidate: int | None = None
    gate_confidence: float | None = None
    soft_mask: SoftMask | None = None


@dataclass(frozen=True, slots=True)
class ImageLabels:
    """All labels of one image. `message` is the reason where the image failed, else empty.

    A failed image may have no known size: width and height are 0 then.
    """

    image_id: int
    file_name: str
    width: int
    height: int
    status: Status
    message: str = ""
    instances: tuple[InstanceLabel, ...] = ()

    @classmethod
    def of_instances(
        cls, image_id: int, file_name: str, width: int, height: int, instances: tuple[InstanceLabel, ...]
    ) -> ImageLabels:
        """The row of an image that was worked on: its status follows from its instances."""
        status = Status.OK if instances else Status.EMPTY
        return cls(image_id, file_name, width, height, status, "", instances)

    @classmethod
    def of_failure(cls, image_id: int, file_name: str, message: str, width: int = 0, height: int = 0) -> ImageLabels:
        """The row of an image that could not be used, with the reason."""
        return cls(image_id, file_name, width, height, Status.FAILED, message)

    def rle(self, instance: InstanceLabel) -> CompressedRle:
        """The mask of one of its instances as pycocotools takes it."""
        return {"size": [self.height, self.width], "counts": instance.rle_counts}

    def mask(self, instance: InstanceLabel) -> NDArray[np.bool_]:
        """The mask of one of its instances, bool (height, width)."""
        mask: NDArray[np.bool_] = coco_mask.decode(self.rle(instance)).astype(np.bool_)
        return mask


def label_from_rle(rle: CompressedRle, category_id: int, score: float, decision: Decision) -> InstanceLabel:
    """An instance with the area and the tight box of its mask; `dataclasses.replace` adds measures to it."""
    x, y, width, height = (float(value) for value in coco_mask.toBbox(rle))
    return InstanceLabel(
        category_id=category_id,
        score=score,
        box_xyxy=(x, y, x + width, y + height),
        rle_counts=rle["counts"],
        area=int(coco_mask.area(rle)),
        decision=decision,
    )


def label_from_mask(mask: NDArray[np.bool_], category_id: int, score: float, decision: Decision) -> InstanceLabel:
    """As `label_from_rle`, from a bool mask (height, width) of the whole image."""
    rle: CompressedRle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return label_from_rle(rle, category_id, score, decision)
