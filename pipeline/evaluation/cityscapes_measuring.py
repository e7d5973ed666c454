"""Measures a model's detections by the instance AP of Cityscapes, with Cityscapes' own label images as the truth.

COCO files of Cityscapes do not say which pixels are void, which the measure needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.coco.model import CocoDataset
from pipeline.datasets.cityscapes import CLASSES, label_file, read_label_image
from pipeline.errors import DatasetError, ImageError, Problem
from pipeline.evaluation.cityscapes_ap import CityscapesDetection, CityscapesPrecision
from pipeline.evaluation.results import CityscapesClass, CityscapesResult
from pipeline.labels.label_store import LabelStore
from pipeline.masks.crop_mask import CropMask

_AT_50 = 0


@dataclass(frozen=True)
class CityscapesTruth:
    """The label images of a dataset, by image id, and Cityscapes' class of each of its categories, by category id."""

    label_images: Mapping[int, Path]
    class_ids: Mapping[int, int]

    @classmethod
    def of(cls, dataset: CocoDataset, folder: Path) -> CityscapesTruth:
        """Find the label images in a folder such as `gtFine/val`. Raise DatasetError with everything that is wrong."""
        problems: list[Problem] = []
        class_by_name = {name: class_id for class_id, name in CLASSES.items()}
        for category in dataset.categories:
            if category.name not in class_by_name:
                message = f"{category.name!r} is not among the classes of Cityscapes: {', '.join(class_by_name)}"
                problems.append(Problem(f"category {category.id}", message))
        label_images: dict[int, Path] = {}
        for image in dataset.images:
            try:
                path = folder / label_file(image.file_name)
            except ImageError as error:
                problems.append(Problem(f"image {image.id}", str(error)))
                continue
            if not path.is_file():
                problems.append(Problem(f"image {image.id}", f"has no label image {path}"))
            label_images[image.id] = path
        if problems:
            raise DatasetError("evaluate.cityscapes", problems)
        return cls(label_images, {each.id: class_by_name[each.name] for each in dataset.categories})


def measure_cityscapes(store: LabelStore, dataset: CocoDataset, truth: CityscapesTruth) -> CityscapesResult:
    """Measure the detections in a store. Raise DatasetError for a label image that cannot be used."""
    sums = CityscapesPrecision()
    for image_id in sorted(dataset.image_by_id):
        image, path = dataset.image_by_id[image_id], truth.label_images[image_id]
        try:
            label_image = read_label_image(path, (image.width, image.height))
        except ImageError as error:
            raise DatasetError("evaluate.cityscapes", [Problem(str(path), str(error))]) from error
        labels = store.by_id(image_id)
        detections = [
            CityscapesDetection(truth.class_ids[each.category_id], each.score, CropMask.of_rle(labels.rle(each)))
            for each in labels.instances
        ]
        sums.add(label_image, detections)
    by_class = sums.by_class()
    precision = {category_id: by_class[class_id] for category_id, class_id in truth.class_ids.items()}
    every = np.array(list(precision.values())).reshape(-1, len(next(iter(by_class.values()))))
    known = every[~np.isnan(every).any(axis=1)]
    return CityscapesResult(
        ap=float(known.mean()) if known.size else None,
        ap_50=float(known[:, _AT_50].mean()) if known.size else None,
        classes=tuple(
            CityscapesClass(
                category_id=category.id,
                name=category.name,
                ap=_figure(precision[category.id].mean()),
                ap_50=_figure(precision[category.id][_AT_50]),
            )
            for category in sorted(dataset.categories, key=lambda category: category.id)
        ),
    )


def _figure(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
