"""Writes a review for annotation tools: COCO, CVAT's own XML, Label Studio's tasks.

Every file holds all instances of its images, dropped ones too, since people correct whole images: the instances that
they leave are the labels of the image.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from pipeline.coco.model import CocoImage
from pipeline.coco.writing import write_coco
from pipeline.files.writing import open_atomically
from pipeline.labels.coco_export import LabelAnnotation, coco_annotations
from pipeline.labels.rows import ImageLabels, InstanceLabel
from pipeline.masks.outlines import outline_xy
from pipeline.review.choosing import Mark, Review, ReviewImage

_CONTROL = ("label", "image")
"""Names of the polygon tool and of the image in Label Studio's labelling configuration."""


class ReviewAnnotation(LabelAnnotation, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """An exported annotation, with the reason to check it."""

    review: Mark | None = None


def write_coco_review(review: Review, path: Path) -> None:
    """Write a COCO dataset; annotations to check have a `review`, and dropped ones are instances like others."""
    images = [
        CocoImage(each.labels.image_id, each.labels.file_name, each.labels.width, each.labels.height)
        for each in review.images
    ]
    write_coco(path, images, review.categories, _coco_annotations(review))


def _coco_annotations(review: Review) -> Iterator[ReviewAnnotation]:
    next_id = 1
    for image in review.images:
        written = coco_annotations(image.labels, next_id, include_dropped=True)
        next_id += len(written)
        for index, annotation in enumerate(written):
            if annotation.area:
                mark = image.marks.get(index)
                shown = None if mark is None else msgspec.structs.replace(mark, worth=round(mark.worth, 4))
                yield ReviewAnnotation(**msgspec.structs.asdict(annotation) | {"iscrowd": 0, "review": shown})


def write_cvat(review: Review, path: Path) -> None:
    """Write "CVAT for images 1.1", masks as masks: pixel for pixel, parts and holes included."""
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    ET.SubElement(task, "size").text = str(len(review.images))
    ET.SubElement(task, "mode").text = "annotation"
    labels = ET.SubElement(task, "labels")
    for category in review.categories:
        ET.SubElement(ET.SubElement(labels, "label"), "name").text = category.name
    for index, image in enumerate(review.images):
        root.append(_cvat_image(index, image, review.names))
    ET.indent(root)
    with open_atomically(path) as file:
        ET.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


def write_cvat_labels(review: Review, path: Path) -> None:
    """Write the labels for the "Raw" tab of a new CVAT task, with the attributes for what to check and for scores."""
    attributes = [
        {"name": name, "mutable": False, "input_type": "text", "default_value": "", "values": [""]}
        for name in ("review", "reason", "score", "mask_score")
    ]
    _write_json(path, ({"name": each.name, "type": "any", "attributes": attributes} for each in review.categories))


def _cvat_image(index: int, image: ReviewImage, names: dict[int, str]) -> ET.Element:
    labels = image.labels
    size = {"width": str(labels.width), "height": str(labels.height)}
    element = ET.Element("image", {"id": str(index), "name": labels.file_name, **size})
    for _, instance, mark in _shown(image):
        shape = {"label": names[instance.category_id], "source": "auto", "occluded": "0"}
        mask = ET.SubElement(element, "mask", shape | _cvat_mask(labels, instance) | {"z_order": "0"})
        if mark is not None:
            ET.SubElement(mask, "attribute", {"name": "review"}).text = _rank_text(mark)
            ET.SubElement(mask, "attribute", {"name": "reason"}).text = mark.reason
        for name, score in (("score", instance.score), ("mask_score", instance.mask_score)):
            if score is not None:
                ET.SubElement(mask, "attribute", {"name": name}).text = f"{score:.4f}"
    return element


def _cvat_mask(labels: ImageLabels, instance: InstanceLabel) -> dict[str, str]:
    """Return a mask in its box: run lengths of 0, 1, 0, … along the rows, in pixels."""
    left, top, right, bottom = (int(value) for value in instance.box_xyxy)
    pixels = labels.mask(instance)[top:bottom, left:right].reshape(-1)
    changes = np.flatnonzero(np.diff(pixels, prepend=False)).tolist()
    runs = np.diff([0, *changes, len(pixels)]).tolist()
    box = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    return {"rle": ", ".join(map(str, runs))} | {name: str(value) for name, value in box.items()}


@dataclass(frozen=True)
class Served:
    """Where Label Studio finds the images: its document root, and their folder below it."""

    document_root: Path
    folder: str

    def url(self, file_name: str) -> str:
        """Return the address of an image in a task."""
        return f"/data/local-files/?d={quote(f'{self.folder}/{file_name}')}"


def write_label_studio(review: Review, path: Path, served: Served) -> None:
    """Write Label Studio's tasks, with instances as predictions of one exact polygon each.

    They are not brush masks, since Label Studio's COCO export makes an instance of each part of a brush mask, fills
    holes and loses the last pixels at the right and at the bottom.
    """
    _write_json(path, (_task(image, review.names, served) for image in review.images))


def write_label_studio_config(review: Review, path: Path) -> None:
    """Write the labelling configuration for the tasks."""
    control, image = _CONTROL
    view = ET.Element("View")
    ET.SubElement(view, "Header", {"value": "$review"})
    ET.SubElement(view, "Image", {"name": image, "value": "$image", "zoom": "true"})
    polygons = ET.SubElement(view, "PolygonLabels", {"name": control, "toName": image})
    for category in review.categories:
        ET.SubElement(polygons, "Label", {"value": category.name})
    ET.indent(view)
    with open_atomically(path) as file:
        ET.ElementTree(view).write(file, encoding="utf-8")


def _task(image: ReviewImage, names: dict[int, str], served: Served) -> dict[str, Any]:
    labels = image.labels
    regions = [_region(labels, index, names, mark) for index, _, mark in _shown(image)]
    ranked = sorted((mark.rank, mark.reason) for mark in image.marks.values() if mark.rank is not None)
    scores = [instance.score for _, instance, _ in _shown(image)]
    return {
        "data": {
            "image": served.url(labels.file_name),
            "file_name": labels.file_name,
            "review": "; ".join(f"{rank}: {reason}" for rank, reason in ranked),
        },
        "predictions": [{"model_version": "s4m", "score": round(min(scores), 6), "result": regions}],
    }


def _region(labels: ImageLabels, index: int, names: dict[int, str], mark: Mark | None) -> dict[str, Any]:
    instance = labels.instances[index]
    outline = outline_xy(labels.mask(instance))
    points = [[100 * x / labels.width, 100 * y / labels.height] for x, y in outline]
    control, image = _CONTROL
    region: dict[str, Any] = {
        "id": f"{labels.image_id}-{index}",
        "type": "polygonlabels",
        "from_name": control,
        "to_name": image,
        "original_width": labels.width,
        "original_height": labels.height,
        "image_rotation": 0,
        "score": round(instance.score, 6),
        "value": {"points": points, "closed": True, "polygonlabels": [names[instance.category_id]]},
    }
    notes = [] if mark is None else [f"{_rank_text(mark)}: {mark.reason}"]
    if instance.mask_score is not None:
        notes.append(f"mask score {instance.mask_score:.4f}")
    return region | {"meta": {"text": notes}} if notes else region


def _shown(image: ReviewImage) -> Iterator[tuple[int, InstanceLabel, Mark | None]]:
    """Yield index, label and mark of every instance that has a pixel."""
    for index, instance in enumerate(image.labels.instances):
        if instance.area:
            yield index, instance, image.marks.get(index)


def _rank_text(mark: Mark) -> str:
    return "not ranked" if mark.rank is None else str(mark.rank)


def _write_json(path: Path, elements: Iterable[Any]) -> None:
    """Write a JSON list, one element a line."""
    with open_atomically(path) as file:
        file.write(b"[" + b",".join(b"\n" + msgspec.json.encode(each) for each in elements) + b"\n]\n")
