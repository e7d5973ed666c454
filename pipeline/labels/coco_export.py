"""Writes labels as a COCO dataset or as a COCO results list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipeline.coco.model import CocoAnnotation
from pipeline.coco.segmentation import RleJson, encode_segmentation
from pipeline.coco.writing import write_coco
from pipeline.files.writing import open_atomically
from pipeline.labels.label_source import LabelSource, written_images
from pipeline.labels.rows import MEASURES, Decision, ImageLabels, InstanceLabel
from pipeline.masks.windows import BoxXyxy

_WHOLE_IN_32_BITS = 1 << 24
"""Whole numbers below it have a 32 bit float each."""

BoxXywh = tuple[float, float, float, float]


class LabelAnnotation(CocoAnnotation, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """An annotation with the store's measures; a dropped instance has iscrowd 1."""

    score: float
    decision: str
    mask_score: float | None = None
    predicted_iou: float | None = None
    stability: float | None = None
    agreement: float | None = None
    candidate: int | None = None
    gate_confidence: float | None = None


class LabelResult(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One entry of a results list, with the store's measures."""

    image_id: int
    category_id: int
    bbox: BoxXywh
    score: float
    segmentation: RleJson
    area: int
    decision: str
    mask_score: float | None = None
    predicted_iou: float | None = None
    stability: float | None = None
    agreement: float | None = None
    candidate: int | None = None
    gate_confidence: float | None = None


def coco_annotations(labels: ImageLabels, first_id: int, *, include_dropped: bool = False) -> list[LabelAnnotation]:
    """Return the annotations of an image, numbered from `first_id`.

    include_dropped: return dropped instances too, as crowds, which COCO's tools ignore.
    """
    wanted = _wanted(labels, include_dropped)
    return [
        LabelAnnotation(
            id=annotation_id,
            image_id=labels.image_id,
            category_id=instance.category_id,
            bbox=_box_xywh(instance.box_xyxy),
            area=instance.area,
            iscrowd=int(instance.decision is Decision.DROPPED),
            segmentation=encode_segmentation(labels.rle(instance)),
            **_measures(instance),
        )
        for annotation_id, instance in enumerate(wanted, first_id)
    ]


Redraw = Callable[[ImageLabels, InstanceLabel, LabelAnnotation], LabelAnnotation | None]
"""Returns an instance's annotation with another segmentation; None leaves it out."""


def export_dataset(
    source: LabelSource, path: Path, *, include_dropped: bool = False, redraw: Redraw | None = None
) -> tuple[int, int]:
    """Write labels as a COCO dataset; return the numbers of its images and instances.

    Failed images are left out, since they would read as images without instances. redraw: changes the annotations,
    whose masks are RLE. Raises DatasetError for an image with a file name that no COCO file may have.
    """
    images = written_images(source, path)
    instances = 0

    def annotations() -> Iterator[LabelAnnotation]:
        nonlocal instances
        for labels in source:
            drawn = _wanted(labels, include_dropped)
            for instance, annotation in zip(
                drawn, coco_annotations(labels, 1, include_dropped=include_dropped), strict=True
            ):
                redrawn = annotation if redraw is None else redraw(labels, instance, annotation)
                if redrawn is not None:
                    instances += 1
                    yield msgspec.structs.replace(redrawn, id=instances)

    write_coco(path, images, source.categories, annotations())
    return len(images), instances


def export_results(source: LabelSource, path: Path) -> tuple[int, int]:
    """Write labels as a COCO results list without dropped instances, one entry a line.

    Returns the numbers of images with an entry and of entries.
    """
    images = instances = 0
    with open_atomically(path) as file:
        separator = b"[\n"
        for labels in source:
            results = list(_results(labels))
            for result in results:
                file.write(separator + msgspec.json.encode(result))
                separator = b",\n"
            images += bool(results)
            instances += len(results)
        file.write(b"[]\n" if separator == b"[\n" else b"\n]\n")
    return images, instances


def _wanted(labels: ImageLabels, include_dropped: bool) -> list[InstanceLabel]:
    return [each for each in labels.instances if include_dropped or each.decision is not Decision.DROPPED]


def _results(labels: ImageLabels) -> Iterator[LabelResult]:
    for instance in labels.instances:
        if instance.decision is not Decision.DROPPED:
            yield LabelResult(
                image_id=labels.image_id,
                category_id=instance.category_id,
                bbox=_box_xywh(instance.box_xyxy),
                segmentation=RleJson((labels.height, labels.width), instance.rle_counts.decode("ascii")),
                area=instance.area,
                **_measures(instance),
            )


def _measures(instance: InstanceLabel) -> dict[str, Any]:
    given = {name: value for name in ("score", *MEASURES) if (value := getattr(instance, name)) is not None}
    shortest = {name: value if isinstance(value, int) else _shortest(value) for name, value in given.items()}
    return {"decision": str(instance.decision), **shortest}


def _box_xywh(box_xyxy: BoxXyxy) -> BoxXywh:
    x0, y0, x1, y1 = box_xyxy
    return _shortest(x0), _shortest(y0), _shortest(x1 - x0), _shortest(y1 - y0)


def _shortest(value: float) -> float:
    """Return the number with the fewest digits that is the same in 32 bits: 0.9 for 0.8999999761581421."""
    if value.is_integer() and abs(value) < _WHOLE_IN_32_BITS:  # the sides of tight boxes
        return value
    return float(str(np.float32(value)))
