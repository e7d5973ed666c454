"""Folders that trainers read as they are: RF-DETR's of COCO files, and Ultralytics' of text files, which both read.

    OUT/train/_annotations.coco.json, OUT/train/IMAGES             coco, coco-polygons
    OUT/data.yaml, OUT/train/images/IMAGES, OUT/train/labels/….txt   yolo-seg

A part (train, valid, test) is made aside and renamed; another one is added to the folder by another export.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
import yaml

from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.coco.paths import resolve_image_path
from pipeline.errors import DatasetError, Problem, StageError
from pipeline.files.scratch import new_folder
from pipeline.files.writing import write_atomically
from pipeline.labels.exporting.export_format import DataPart
from pipeline.labels.exporting.polygons import PolygonDrawer
from pipeline.labels.label_source import LabelSource, written_images
from pipeline.labels.rows import Decision, ImageLabels, Status

COCO_NAME: Final = "_annotations.coco.json"
DATA_YAML: Final = "data.yaml"

_YAML_KEYS: Final = {DataPart.TRAIN: "train", DataPart.VALID: "val", DataPart.TEST: "test"}


@dataclass(frozen=True)
class ImagePlacing:
    """Where images come from, and whether they are copied or linked."""

    root: Path
    copy: bool

    def require(self, images: Sequence[CocoImage]) -> None:
        """Raise DatasetError with every image that is not there."""
        missing = [image.file_name for image in images if not (self.root / image.file_name).is_file()]
        problems = [Problem(name, "no such file") for name in missing]
        if problems:
            raise DatasetError(str(self.root), problems)

    def place(self, images: Sequence[CocoImage], folder: Path) -> None:
        """Put the images into a folder."""
        for image in images:
            target = resolve_image_path(folder, image.file_name)
            target.parent.mkdir(parents=True, exist_ok=True)
            original = resolve_image_path(self.root, image.file_name).resolve()
            if self.copy:
                shutil.copyfile(original, target)
            else:
                target.symlink_to(original)


@dataclass(frozen=True)
class Renumbered:
    """Labels whose categories are numbered from 1, without gaps, as trainers that use the ids as classes need them."""

    source: LabelSource

    @property
    def path(self) -> Path:
        """Return where the labels are."""
        return self.source.path

    @property
    def categories(self) -> Sequence[CocoCategory]:
        """Return the categories with their new ids, in the same order."""
        numbered = enumerate(self.source.categories, start=1)
        return [msgspec.structs.replace(category, id=number) for number, category in numbered]

    @property
    def instances(self) -> int:
        """Count the instances."""
        return self.source.instances

    def __iter__(self) -> Iterator[ImageLabels]:
        return map(self._row, self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> ImageLabels:
        return self._row(self.source[position])

    def find(self, row_id: int) -> int | None:
        """Return the position of an image id."""
        return self.source.find(row_id)

    def file_names(self) -> Sequence[str]:
        """Return the file names of all images."""
        return self.source.file_names()

    def usable_images(self) -> Sequence[CocoImage]:
        """Return the images that did not fail."""
        return self.source.usable_images()

    def _row(self, labels: ImageLabels) -> ImageLabels:
        renumbered = (replace(each, category_id=self._ids[each.category_id]) for each in labels.instances)
        return replace(labels, instances=tuple(renumbered))

    @cached_property
    def _ids(self) -> Mapping[int, int]:
        return {category.id: number for number, category in enumerate(self.source.categories, start=1)}


def write_yolo(
    source: LabelSource, folder: Path, part: DataPart, placing: ImagePlacing | None, drawer: PolygonDrawer
) -> tuple[int, int]:
    """Write a part of a YOLO data set; return the numbers of its images and instances.

    Dropped instances and failed images are left out; an image without instances has an empty text file.
    """
    images = written_images(source, folder)
    if placing is not None:
        placing.require(images)
    _require_text_names(images, source.path)
    names = {number: category.name for number, category in enumerate(source.categories)}
    data = _merged_yaml(folder / DATA_YAML, names, part)
    numbers = {category.id: number for number, category in enumerate(source.categories)}
    instances = 0
    with new_folder(folder / part) as inside:
        for labels in source:
            if labels.status is Status.FAILED:
                continue
            lines = list(_lines(labels, numbers, drawer))
            instances += len(lines)
            path = inside / "labels" / _text_name(labels.file_name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="ascii")
        (inside / "images").mkdir()
        if placing is not None:
            placing.place(images, inside / "images")
    write_atomically(folder / DATA_YAML, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    return len(images), instances


def _lines(labels: ImageLabels, numbers: Mapping[int, int], drawer: PolygonDrawer) -> Iterator[str]:
    for instance in labels.instances:
        if instance.decision is Decision.DROPPED:
            continue
        polygon_xy = drawer.whole(labels, instance)
        sizes = (labels.width, labels.height)
        shares = [f"{value / sizes[index % 2]:.6f}" for index, value in enumerate(polygon_xy)]
        if shares:
            yield f"{numbers[instance.category_id]} {' '.join(shares)}\n"


def _text_name(file_name: str) -> str:
    return str(PurePosixPath(file_name).with_suffix(".txt"))


def _require_text_names(images: Sequence[CocoImage], path: Path) -> None:
    """Raise DatasetError for images whose labels would be in one file."""
    problems: list[Problem] = []
    first: dict[str, str] = {}
    for image in images:
        name = _text_name(image.file_name)
        if name in first:
            problems.append(Problem(image.file_name, f"and {first[name]} would have the same text file: rename one"))
        first[name] = image.file_name
    if problems:
        raise DatasetError(str(path), problems)


def _merged_yaml(path: Path, names: Mapping[int, str], part: DataPart) -> dict[str, Any]:
    """Return the content of `data.yaml` with one more part; StageError where its classes are others."""
    data: Any = {}
    if path.exists():
        try:
            data = yaml.safe_load(path.read_bytes())
        except (yaml.YAMLError, ValueError):
            data = None
        known = data.get("names") if isinstance(data, dict) else None
        if known != names:
            raise StageError(f"{path} has the classes {known}, the labels have {dict(names)}: choose another folder")
    data[_YAML_KEYS[part]] = f"{part}/images"
    return {key: data[key] for key in (*_YAML_KEYS.values(), *data) if key in data} | {"names": dict(names)}
