"""Checks rows before they are stored: readers of a store trust them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

from pipeline.coco.segmentation import RleJson, SegmentationError, require_usable
from pipeline.errors import Problem
from pipeline.labels.rows import ImageLabels, InstanceLabel, Status
from pipeline.masks.run_lengths import area_px, compressed_counts_problems
from pipeline.masks.soft_masks import SOFT_MASK_SIDE, SoftMask

_INT32_MAX = 2**31 - 1
_INT64 = range(-(2**63), 2**63)
_CANDIDATES = range(128)


def row_problems(rows: Sequence[ImageLabels]) -> list[Problem]:
    """Return every reason why rows cannot be stored, each with the image's id and the field."""
    problems: list[Problem] = []
    seen_ids: set[int] = set()
    for row in rows:
        found = [*_image_problems(row)]
        if row.image_id in seen_ids:
            found.append(("", "is in the rows twice"))
        seen_ids.add(row.image_id)
        for index, instance in enumerate(row.instances):
            found += [
                (f"instances[{index}].{field}", message)
                for field, message in _instance_problems(instance, row.width, row.height)
            ]
        if not found:  # the sums need valid texts and sizes
            found += _rle_sum_problems(row)
        problems += [Problem(f"image {row.image_id}, {field}".removesuffix(", "), message) for field, message in found]
    return problems


def _image_problems(row: ImageLabels) -> Iterator[tuple[str, str]]:
    if row.image_id not in _INT64:
        yield "image_id", "does not fit into 64 bits"
    smallest = 0 if row.status is Status.FAILED else 1
    for field, value in (("width", row.width), ("height", row.height)):
        if not smallest <= value <= _INT32_MAX:
            yield field, f"is {value}"
    if (row.status is Status.OK) != bool(row.instances):
        yield "status", f"is {row.status} with {len(row.instances)} instances"
    if (row.status is Status.FAILED) != bool(row.message):
        yield "message", f"is {row.message!r} where the status is {row.status}"


def _instance_problems(instance: InstanceLabel, width: int, height: int) -> Iterator[tuple[str, str]]:
    if instance.category_id not in _INT64:
        yield "category_id", "does not fit into 64 bits"
    if not 0 <= instance.score <= 1:
        yield "score", f"is {instance.score}, not a confidence between 0 and 1"
    if instance.mask_score is not None and not 0 <= instance.mask_score <= 1:
        yield "mask_score", f"is {instance.mask_score}, not between 0 and 1; None if it is not known"
    x0, y0, x1, y1 = instance.box_xyxy
    if not (all(map(isfinite, instance.box_xyxy)) and x0 <= x1 and y0 <= y1):
        yield "box_xyxy", f"is {instance.box_xyxy}, not left, top, right, bottom"
    for field in ("predicted_iou", "stability", "agreement"):
        value = getattr(instance, field)
        if value is not None and not isfinite(value):
            yield field, f"is {value}; a measure that does not apply is None"
    if instance.gate_confidence is not None and not 0 <= instance.gate_confidence <= 1:
        yield "gate_confidence", f"is {instance.gate_confidence}, not between 0 and 1; None if it does not apply"
    if (instance.class_vote is None) != (instance.class_agreement is None):
        yield "class_vote", f"is {instance.class_vote} with a class_agreement of {instance.class_agreement}"
    if instance.class_vote is not None and instance.class_vote not in _INT64:
        yield "class_vote", "does not fit into 64 bits"
    if instance.class_agreement is not None and not 0 <= instance.class_agreement <= 1:
        yield "class_agreement", f"is {instance.class_agreement}, not between 0 and 1; None if it does not apply"
    if instance.candidate is not None and instance.candidate not in _CANDIDATES:
        yield "candidate", f"is {instance.candidate}"
    if instance.soft_mask is not None:
        yield from _soft_mask_problems(instance.soft_mask, width, height)
    yield from _counts_problems("rle_counts", instance.rle_counts, width, height)
    if instance.uncertain_counts:
        yield from _counts_problems("uncertain_counts", instance.uncertain_counts, width, height)


def _counts_problems(field: str, given: bytes, width: int, height: int) -> Iterator[tuple[str, str]]:
    try:
        require_usable(RleJson((height, width), given.decode("ascii")), width, height)
    except SegmentationError as error:
        yield f"{field}{error.field}".removesuffix(".counts"), str(error)
    except UnicodeDecodeError:
        yield field, "is not ASCII"


def _soft_mask_problems(soft_mask: SoftMask, width: int, height: int) -> Iterator[tuple[str, str]]:
    x0, y0, x1, y1 = soft_mask.crop_box_xyxy
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        yield "soft_mask.crop_box_xyxy", f"is {soft_mask.crop_box_xyxy} in an image of {width}x{height}"
    shape, dtype = soft_mask.codes.shape, soft_mask.codes.dtype
    if shape != (SOFT_MASK_SIDE, SOFT_MASK_SIDE) or dtype != "uint8":
        yield "soft_mask.codes", f"is {dtype} {shape}, not uint8 {(SOFT_MASK_SIDE, SOFT_MASK_SIDE)}"


def _rle_sum_problems(row: ImageLabels) -> Iterator[tuple[str, str]]:
    if not row.instances:
        return
    texts = [instance.rle_counts.decode("ascii") for instance in row.instances]
    sums = compressed_counts_problems(texts, [row.width * row.height] * len(texts))
    for index, (instance, problem) in enumerate(zip(row.instances, sums, strict=True)):
        if problem is not None:
            yield f"instances[{index}].rle_counts", problem
        # One at a time: pycocotools' area takes no list of more than 255.
        elif (area := area_px(row.rle(instance))) != instance.area:
            yield f"instances[{index}].area", f"is {instance.area}, the mask has {area} pixels"
    uncertain = [(index, each.uncertain_counts) for index, each in enumerate(row.instances) if each.uncertain_counts]
    if uncertain:
        sums = compressed_counts_problems(
            [counts.decode("ascii") for _, counts in uncertain], [row.width * row.height] * len(uncertain)
        )
        for (index, _), problem in zip(uncertain, sums, strict=True):
            if problem is not None:
                yield f"instances[{index}].uncertain_counts", problem
