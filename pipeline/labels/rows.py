"""Labels as plain frozen values: an image with its instances."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pipeline.masks.run_lengths import CompressedRle, area_px, box_xyxy, decode_mask, encode_mask
from pipeline.masks.soft_masks import SoftMask
from pipeline.masks.windows import BoolMask, BoxXyxy
from pipeline.settings import ScoreKind


class Status(StrEnum):
    """The outcome of an image."""

    OK = "ok"
    EMPTY = "empty"
    FAILED = "failed"


class Decision(StrEnum):
    """Whose mask an instance has. A dropped instance keeps the teacher's mask: its pixels are ignored."""

    SAM = "sam"
    TEACHER = "teacher"
    DROPPED = "dropped"


MEASURES: Final = ("mask_score", "predicted_iou", "stability", "agreement", "candidate", "gate_confidence")
"""Names of the measures of an instance, each of which is None where it does not apply."""


@dataclass(frozen=True, slots=True)
class InstanceLabel:
    """One instance of an image. A measure that does not apply is None.

    score: the detector's confidence in the class, 0 to 1.
    mask_score: the detector's confidence in its own mask, 0 to 1: the mean probability inside it. None for people's own
        labels, and for results that do not have it.
    box_xyxy: left, top, right, bottom in pixels of the full image, right and bottom exclusive.
    rle_counts: the mask as pycocotools' compressed run lengths, in the size of the image.
    area: pixels of the mask.
    predicted_iou: SAM's own estimate of the mask's IoU; the head that makes it may leave 0 to 1.
    stability: IoU of SAM's mask under a shift of its threshold, 0 to 1.
    agreement: IoU of SAM's mask and the teacher's, 0 to 1.
    candidate: which of SAM's candidates was chosen, 0 to 127.
    gate_confidence: how sure the gate is of the mask, 0 to 1; 0 where it was dropped.
    class_vote: the category of the labelled instances whose features are most similar.
    class_agreement: the share of comparisons that this category won, 0 to 1.
    uncertain_counts: the pixels about which the masks of this instance disagree, as `rle_counts`; empty if unknown.
    """

    category_id: int
    score: float
    box_xyxy: BoxXyxy
    rle_counts: bytes
    area: int
    decision: Decision
    mask_score: float | None = None
    predicted_iou: float | None = None
    stability: float | None = None
    agreement: float | None = None
    candidate: int | None = None
    gate_confidence: float | None = None
    soft_mask: SoftMask | None = None
    class_vote: int | None = None
    class_agreement: float | None = None
    uncertain_counts: bytes = b""

    @property
    def mask_score_or_one(self) -> float:
        """Return the mask score; 1 where it is not known."""
        return 1.0 if self.mask_score is None else self.mask_score

    def score_of(self, kind: ScoreKind) -> float:
        """Return the score of the class, that of the mask, or their product; an unknown mask score is 1."""
        match kind:
            case "class":
                return self.score
            case "mask":
                return self.mask_score_or_one
            case "product":
                return self.score * self.mask_score_or_one


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
        """Return the row of an image that was worked on: its status follows from its instances."""
        status = Status.OK if instances else Status.EMPTY
        return cls(image_id, file_name, width, height, status, "", instances)

    @classmethod
    def of_failure(cls, image_id: int, file_name: str, message: str, width: int = 0, height: int = 0) -> ImageLabels:
        """Return the row of an image that could not be used, with the reason."""
        return cls(image_id, file_name, width, height, Status.FAILED, message)

    def rle(self, instance: InstanceLabel) -> CompressedRle:
        """Return the mask of one of its instances as pycocotools' RLE."""
        return {"size": [self.height, self.width], "counts": instance.rle_counts}

    def uncertain_rle(self, instance: InstanceLabel) -> CompressedRle | None:
        """Return the uncertain pixels of one of its instances as pycocotools' RLE; None where they are not known."""
        if not instance.uncertain_counts:
            return None
        return {"size": [self.height, self.width], "counts": instance.uncertain_counts}

    def mask(self, instance: InstanceLabel) -> BoolMask:
        """Decode the mask of one of its instances: bool (height, width)."""
        return decode_mask(self.rle(instance))


def label_from_rle(rle: CompressedRle, category_id: int, score: float, decision: Decision) -> InstanceLabel:
    """Make an instance with the area and the tight box of its mask; `dataclasses.replace` adds measures to it."""
    return InstanceLabel(category_id, score, box_xyxy(rle), rle["counts"], area_px(rle), decision)


def label_from_mask(mask: BoolMask, category_id: int, score: float, decision: Decision) -> InstanceLabel:
    """Make an instance as `label_from_rle` does, from a bool mask (height, width) of the whole image."""
    return label_from_rle(encode_mask(mask), category_id, score, decision)


def with_mask(label: InstanceLabel, rle: CompressedRle, uncertain: CompressedRle | None = None) -> InstanceLabel:
    """Return the instance with another mask, the area and the tight box of it, and without a soft mask.

    uncertain: the pixels about which masks disagree; None: they are not known.
    """
    return replace(
        label,
        box_xyxy=box_xyxy(rle),
        rle_counts=rle["counts"],
        area=area_px(rle),
        soft_mask=None,
        uncertain_counts=b"" if uncertain is None else uncertain["counts"],
    )


def best_instances(labels: ImageLabels, min_score: float, min_mask_score: float, most: int) -> ImageLabels:
    """Return the image with at most `most` instances of at least these scores, the best first if some are left out.

    The best are those with the highest class scores. An unknown mask score is 1.
    """
    if labels.status is Status.FAILED:
        return labels
    kept = [each for each in labels.instances if each.score >= min_score and each.mask_score_or_one >= min_mask_score]
    if len(kept) > most:
        kept = sorted(kept, key=lambda instance: -instance.score)[:most]
    return replace(labels, instances=tuple(kept), status=Status.OK if kept else Status.EMPTY)
