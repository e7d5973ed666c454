"""Cityscapes' fine annotations as COCO instance files: an annotation for each instance, groups as crowds.

A `*_gtFine_instanceIds.png` holds, for every pixel, `class * 1000 + number` where the pixel belongs to an
instance and the bare class everywhere else. The bare number of a class that has instances marks a group of
them that the annotators did not take apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoImage
from pipeline.coco.writing import write_coco
from pipeline.datasets.converting import Progress, annotation_of, read_pictures
from pipeline.errors import DatasetError, ImageError, Problem
from pipeline.files.images import check_image_header
from pipeline.files.writing import refuse_existing
from pipeline.masks.run_lengths import CompressedRle, encode_mask

Split = Literal["train", "val"]

CLASSES: Final[Mapping[int, str]] = MappingProxyType(
    {
        24: "person",
        25: "rider",
        26: "car",
        27: "truck",
        28: "bus",
        31: "train",
        32: "motorcycle",
        33: "bicycle",
    }
)
# All classes are 0 to 33, those from 24 on have instances; caravans and trailers (29, 30) are never scored.
_LAST_CLASS: Final = 33
_WITH_INSTANCES: Final = range(24, _LAST_CLASS + 1)


@dataclass(frozen=True)
class CityscapesSettings:
    """What of Cityscapes is converted."""

    splits: tuple[Split, ...] = ("train", "val")
    """Each becomes a file of its own. The labels of `test` are not public."""
    cities: tuple[str, ...] = ()
    """Only these cities; empty: all."""
    size_wh_px: tuple[int, int] = (2048, 1024)
    """Width and height that every picture must have."""


@dataclass(frozen=True)
class ConvertedSplit:
    """One COCO file that was written."""

    path: Path
    images: int
    instances: int
    crowds: int


@dataclass(frozen=True)
class _StreetImage:
    """A photograph and its labels, both relative to the root."""

    name: str
    """City folder and name without ending: `aachen/aachen_000000_000019`."""
    split: Split

    @property
    def image(self) -> str:
        return f"leftImg8bit/{self.split}/{self.name}_leftImg8bit.png"

    @property
    def labels(self) -> str:
        return f"gtFine/{self.split}/{self.name}_gtFine_instanceIds.png"


@dataclass(frozen=True)
class _Instance:
    category_id: int
    is_crowd: bool
    rle: CompressedRle


@dataclass(frozen=True)
class _ReadStreetImage:
    instances: tuple[_Instance, ...]
    problems: tuple[Problem, ...]


def convert_cityscapes(
    root: Path,
    output: Path,
    settings: CityscapesSettings,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[ConvertedSplit, ...]:
    """Write `output`/{split}.json for every split of the Cityscapes folder `root`.

    File names in it are relative to `root`/leftImg8bit/{split}. DatasetError lists everything that is wrong
    with all splits; then nothing is written.
    """
    refuse_existing([output / f"{split}.json" for split in settings.splits])
    pictures, problems = _find_pictures(root, settings)
    read = read_pictures(partial(_read_picture, root, settings.size_wh_px), pictures, workers, progress)
    problems += [problem for each in read for problem in each.problems]
    if problems:
        raise DatasetError(str(root), problems)
    by_split: dict[Split, list[tuple[_StreetImage, _ReadStreetImage]]] = {split: [] for split in settings.splits}
    for picture, result in zip(pictures, read, strict=True):
        by_split[picture.split].append((picture, result))
    return tuple(
        _write_split(output / f"{split}.json", content, settings.size_wh_px) for split, content in by_split.items()
    )


def _find_pictures(root: Path, settings: CityscapesSettings) -> tuple[list[_StreetImage], list[Problem]]:
    """The pictures that have both a photograph and labels, by split and sorted by name; what is amiss."""
    found: list[_StreetImage] = []
    problems: list[Problem] = []
    cities: set[str] = set()
    for split in settings.splits:
        images = _names(root / "leftImg8bit" / split, "_leftImg8bit.png")
        labels = _names(root / "gtFine" / split, "_gtFine_instanceIds.png")
        for folder, names in ((f"leftImg8bit/{split}", images), (f"gtFine/{split}", labels)):
            if not names:
                problems.append(Problem(folder, "holds no pictures: is this the folder of Cityscapes?"))
        cities |= {_city(name) for name in images | labels}
        for name in sorted(images | labels):
            picture = _StreetImage(name, split)
            if settings.cities and _city(name) not in settings.cities:
                continue
            if name in images and name in labels:
                found.append(picture)
            elif name in labels and images:
                problems.append(Problem(picture.labels, f"has no photograph {picture.image}"))
            elif name in images and labels:
                problems.append(Problem(picture.image, f"has no labels {picture.labels}"))
    known = ", ".join(sorted(cities))
    problems += [Problem("cities", f"{city!r} is not among: {known}") for city in settings.cities if city not in cities]
    return found, problems


def _names(folder: Path, ending: str) -> set[str]:
    return {path.relative_to(folder).as_posix().removesuffix(ending) for path in folder.glob(f"*/*{ending}")}


def _city(name: str) -> str:
    return name.split("/")[0]


def _read_picture(root: Path, size_wh_px: tuple[int, int], picture: _StreetImage) -> _ReadStreetImage:
    problems = []
    try:
        check_image_header(root / picture.image, size_wh_px)
    except ImageError as error:
        problems.append(Problem(picture.image, str(error)))
    try:
        labels = _read_labels(root / picture.labels, size_wh_px)
    except ImageError as error:
        problems.append(Problem(picture.labels, str(error)))
        return _ReadStreetImage((), tuple(problems))
    return _ReadStreetImage(tuple(_instances(labels)), tuple(problems))


def _read_labels(path: Path, size_wh_px: tuple[int, int]) -> NDArray[np.uint16]:
    """Label picture, (height, width), with values of Cityscapes only."""
    check_image_header(path, size_wh_px)
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            kind = picture.mode
            labels = np.asarray(picture)
    except (OSError, SyntaxError) as error:  # what Pillow raises for a damaged PNG
        raise ImageError(f"cannot be decoded, the file is damaged: {error}") from error
    if kind != "I;16":
        raise ImageError(f"is no label picture: its pixels are {kind}, those of labels 16-bit grey (I;16)")
    for value in np.unique(labels[labels > _LAST_CLASS]).tolist():
        if value // 1000 not in _WITH_INSTANCES:
            raise ImageError(f"is no label picture: the value {value} stands for no class and no instance")
    return labels


def _instances(labels: NDArray[np.uint16]) -> Iterator[_Instance]:
    """The instances and groups of the eight classes, by rising label."""
    # COCO's run lengths go down the columns: turned once, every mask below is in that order already.
    columns = np.ascontiguousarray(labels.T)
    for label in np.unique(labels[labels >= _WITH_INSTANCES.start]).tolist():
        is_crowd = label < 1000
        category_id = label if is_crowd else label // 1000
        if category_id in CLASSES:
            yield _Instance(category_id, is_crowd, encode_mask((columns == label).T))


def _write_split(
    path: Path, pictures: Sequence[tuple[_StreetImage, _ReadStreetImage]], size_wh_px: tuple[int, int]
) -> ConvertedSplit:
    """Image and annotation ids count from 1, in the order of file names and labels."""
    images: list[CocoImage] = []
    annotations: list[CocoAnnotation] = []
    for image_id, (picture, read) in enumerate(pictures, start=1):
        images.append(CocoImage(image_id, f"{picture.name}_leftImg8bit.png", *size_wh_px))
        for instance in read.instances:
            annotations.append(
                annotation_of(
                    len(annotations) + 1,
                    image_id,
                    instance.category_id,
                    instance.rle,
                    is_crowd=instance.is_crowd,
                )
            )
    categories = [CocoCategory(class_id, name) for class_id, name in CLASSES.items()]
    write_coco(path, images, categories, annotations)
    crowds = sum(each.iscrowd for each in annotations)
    return ConvertedSplit(path, len(images), len(annotations) - crowds, crowds)
