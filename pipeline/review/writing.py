"""Writes a review: the files for one annotation tool, the list for people, and copies of the images if wanted."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.coco.paths import file_name_problem, resolve_image_path
from pipeline.errors import DatasetError, Problem
from pipeline.files.writing import write_atomically
from pipeline.review.choosing import Review
from pipeline.review.formats import (
    Served,
    write_coco_review,
    write_cvat,
    write_cvat_labels,
    write_label_studio,
    write_label_studio_config,
)
from pipeline.review.review_format import ReviewFormat

IMAGES = "images"
LIST = "review.csv"
FAILED = "failed.csv"

# Characters that XML cannot hold, escaped or not; control characters are not valid in names anyway.
_NOT_IN_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class ReviewTarget:
    """Where and for which tool to write. image_root: the folder of the images. copy: copy the images too."""

    format: ReviewFormat
    image_root: Path
    folder: Path
    copy: bool = False

    @property
    def served(self) -> Served:
        """Return where Label Studio finds the images; its storages must be folders below its root."""
        images = (self.folder / IMAGES if self.copy else self.image_root).resolve()
        return Served(images.parent, images.name)


def write_review(review: Review, target: ReviewTarget) -> None:
    """Write all files, the tool's own file last. Raises DatasetError with all unusable images and names."""
    _require_usable(review, target.image_root)
    if target.copy:
        for image in review.images:
            copied = resolve_image_path(target.folder / IMAGES, image.labels.file_name)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(resolve_image_path(target.image_root, image.labels.file_name), copied)
    _write_lists(review, target.folder)
    if target.format is ReviewFormat.COCO:
        write_coco_review(review, target.folder / "annotations.json")
    elif target.format is ReviewFormat.CVAT:
        write_cvat_labels(review, target.folder / "labels.json")
        write_cvat(review, target.folder / "annotations.xml")
    else:
        write_label_studio_config(review, target.folder / "labels.xml")
        write_label_studio(review, target.folder / "tasks.json", target.served)


def _require_usable(review: Review, image_root: Path) -> None:
    problems = []
    ids_by_name: dict[str, int] = {}
    for category in review.categories:
        where = f"category {category.id}"
        if category.name in ids_by_name:
            same = f"has the name {category.name!r} of category {ids_by_name[category.name]}: tools need unique names"
            problems.append(Problem(where, same))
        ids_by_name[category.name] = category.id
        if _NOT_IN_XML.search(category.name):
            problems.append(Problem(where, f"{category.name!r} has a character that XML cannot hold"))
    for image in review.images:
        name = image.labels.file_name
        problem = file_name_problem(name)
        if problem is None and _NOT_IN_XML.search(name):
            problem = f"{name!r} has a character that XML cannot hold"
        if problem is None and not (image_root / name).is_file():
            problem = f"{name!r} is not in {image_root}"
        if problem is not None:
            problems.append(Problem(f"image {image.labels.image_id}", problem))
    if problems:
        raise DatasetError("labels to review", problems)


def _write_lists(review: Review, folder: Path) -> None:
    names = review.names
    rows = [
        (
            "" if mark.rank is None else mark.rank,
            image.labels.file_name,
            image.labels.image_id,
            names[instance.category_id],
            *(f"{value:g}" for value in instance.box_xyxy),
            f"{instance.score:.4f}",
            "" if instance.mask_score is None else f"{instance.mask_score:.4f}",
            f"{mark.worth:.4f}",
            mark.reason,
        )
        for image in review.images
        for instance, mark in ((image.labels.instances[index], mark) for index, mark in image.marks.items())
    ]
    rows.sort(key=lambda row: (row[0] == "", row[0]))
    heading = (
        "rank",
        "file_name",
        "image_id",
        "category",
        "left",
        "top",
        "right",
        "bottom",
        "score",
        "mask_score",
        "worth",
        "reason",
    )
    _write_csv(folder / LIST, heading, rows)
    if review.failed:
        failed = ((each.image_id, each.file_name, each.message) for each in review.failed)
        _write_csv(folder / FAILED, ("image_id", "file_name", "reason"), failed)


def _write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    # File names may have bytes that are not UTF-8.
    write_atomically(path, text.getvalue().encode("utf-8", "backslashreplace").decode())
