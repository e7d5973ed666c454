"""From the store to COCO: for any tool that reads it, and for a look with pycocotools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipeline.coco.model import CocoAnnotation, CocoImage
from pipeline.coco.paths import file_name_problem
from pipeline.coco.segmentation import RleJson, encode_segmentation
from pipeline.coco.writing import write_coco
from pipeline.errors import DatasetError, Problem
from pipeline.files.writing import open_atomically
from pipeline.labels.label_columns import STATUSES
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status
from pipeline.masks.windows import BoxXyxy

BoxXywh = tuple[float, float, float, float]


class LabelAnnotation(CocoAnnotation, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """An annotation of a dataset, with the store's measures; a dropped instance has iscrowd 1."""

    score: float
    decision: str
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
    predicted_iou: float | None = None
    stability: float | None = None
    agreement: float | None = None
    candidate: int | None = None
    gate_confidence: float | None = None


@dataclass(frozen=True)
class Exported:
    """What a written file holds: its instances, and the images that it lists or, in a results list, has any of."""

    images: int
    instances: int


def coco_annotations(labels: ImageLabels, first_id: int, *, include_dropped: bool = False) -> list[LabelAnnotation]:
    """Return the annotations of an image, numbered from `first_id`.

    Dropped instances, where wanted, are crowds: what COCO's tools neither reward nor punish.
    """
    wanted = [each for each in labels.instances if include_dropped or each.decision is not Decision.DROPPED]
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


def coco_results(labels: ImageLabels) -> list[dict[str, Any]]:
    """Return the entries of an image in a results list, as pycocotools loads them; without dropped ones."""
    return [msgspec.json.decode(msgspec.json.encode(result)) for result in _results(labels)]


def export_dataset(store: LabelStore, path: Path, *, include_dropped: bool = False) -> Exported:
    """Write a COCO dataset of a store: images, categories, annotations.

    Failed images are left out: without labels they would pass for images of nothing. DatasetError where an
    image has a file name that no COCO file may have.
    """
    images = _images(store, path)
    instances = 0

    def annotations() -> Iterator[LabelAnnotation]:
        nonlocal instances
        for labels in store:
            of_image = coco_annotations(labels, instances + 1, include_dropped=include_dropped)
            instances += len(of_image)
            yield from of_image

    write_coco(path, images, store.attributes.categories, annotations())
    return Exported(len(images), instances)


def export_results(store: LabelStore, path: Path) -> Exported:
    """Write a COCO results list of a store, one entry a line, without dropped instances."""
    images = instances = 0
    with open_atomically(path) as file:
        separator = b"[\n"
        for labels in store:
            results = list(_results(labels))
            for result in results:
                file.write(separator + msgspec.json.encode(result))
                separator = b",\n"
            images += bool(results)
            instances += len(results)
        file.write(b"[]\n" if separator == b"[\n" else b"\n]\n")
    return Exported(images, instances)


def _images(store: LabelStore, path: Path) -> list[CocoImage]:
    images: list[CocoImage] = []
    problems: list[Problem] = []
    columns = (store.column(f"images/{name}").tolist() for name in ("id", "width", "height", "status"))
    for file_name, image_id, width, height, status in zip(store.file_names(), *columns, strict=True):
        if STATUSES[status] is not Status.FAILED:
            images.append(CocoImage(image_id, file_name, width, height))
            if (problem := file_name_problem(file_name)) is not None:
                problems.append(Problem(f"image {image_id}, file_name", problem))
    if problems:
        raise DatasetError(str(path), problems)
    return images


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
    """Return the fields of an annotation or a result that COCO's tools do not need but the score."""
    return {
        "score": _shortest(instance.score),
        "decision": str(instance.decision),
        "predicted_iou": _shortest_or_none(instance.predicted_iou),
        "stability": _shortest_or_none(instance.stability),
        "agreement": _shortest_or_none(instance.agreement),
        "candidate": instance.candidate,
        "gate_confidence": _shortest_or_none(instance.gate_confidence),
    }


def _box_xywh(box_xyxy: BoxXyxy) -> BoxXywh:
    x0, y0, x1, y1 = box_xyxy
    return _shortest(x0), _shortest(y0), _shortest(x1 - x0), _shortest(y1 - y0)


def _shortest(value: float) -> float:
    """Return the number of the fewest digits that is the same in 32 bits: 0.9 for 0.8999999761581421."""
    return float(str(np.float32(value)))


def _shortest_or_none(value: float | None) -> float | None:
    return None if value is None else _shortest(value)
