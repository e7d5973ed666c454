"""Convert Cityscapes' fine annotations to COCO instance files: an annotation for each instance, groups as crowds.

A `*_gtFine_instanceIds.png` holds, for every pixel, `class * 1000 + number` where the pixel belongs to an
instance and the class alone everywhere else. The class alone, where that class has instances, marks a group of
them that the annotators did not separate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.datasets.converting import ConvertedFile, Instance, Progress, map_images, write_converted
from pipeline.errors import DatasetError, ImageError, Problem
from pipeline.files.images import check_image_header
from pipeline.files.writing import refuse_existing
from pipeline.masks.run_lengths import encode_mask

Split = Literal["train", "val"]

FIRST_INSTANCE: Final = 1000
"""Least value of an instance in a label image: its class times this number, and its own number."""
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
VOID_CLASSES: Final = frozenset({*range(7), 9, 10, 14, 15, 16, 18, 29, 30})
"""What Cityscapes never scores. Instances of caravans and trailers (29, 30) have values of their own: not void."""
# All classes are 0 to 33, those from 24 on have instances; caravans and trailers (29, 30) are never scored.
_LAST_CLASS: Final = 33
_WITH_INSTANCES: Final = range(24, _LAST_CLASS + 1)
_IMAGE_ENDING: Final = "_leftImg8bit.png"
_LABEL_ENDING: Final = "_gtFine_instanceIds.png"


@dataclass(frozen=True)
class CityscapesSettings:
    """Which part of Cityscapes is converted."""

    splits: tuple[Split, ...] = ("train", "val")
    """Each becomes a file of its own. The labels of `test` are not public."""
    cities: tuple[str, ...] = ()
    """Only these cities; empty: all."""
    size_wh_px: tuple[int, int] = (2048, 1024)
    """Width and height that every image must have."""


@dataclass(frozen=True)
class _StreetImage:
    """An image and its labels, both relative to the root."""

    name: str
    """City folder and name without ending: `aachen/aachen_000000_000019`."""
    split: Split

    @property
    def image(self) -> str:
        return f"leftImg8bit/{self.split}/{self.name}{_IMAGE_ENDING}"

    @property
    def labels(self) -> str:
        return f"gtFine/{self.split}/{self.name}{_LABEL_ENDING}"


def convert_cityscapes(
    root: Path,
    output: Path,
    settings: CityscapesSettings,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[ConvertedFile, ...]:
    """Write `output`/{split}.json for every split of the Cityscapes folder `root`.

    File names in it are relative to `root`/leftImg8bit/{split}. DatasetError lists everything that is wrong
    with all splits; then nothing is written.
    """
    refuse_existing([output / f"{split}.json" for split in settings.splits])
    images, problems = _find_images(root, settings)
    read = map_images(partial(_read_image, root, settings.size_wh_px), images, workers, progress)
    problems += [problem for _, found in read for problem in found]
    if problems:
        raise DatasetError(str(root), problems)
    content: dict[Split, list[tuple[CocoImage, list[Instance]]]] = {split: [] for split in settings.splits}
    for image, (instances, _) in zip(images, read, strict=True):
        of_split = content[image.split]
        file_name = f"{image.name}{_IMAGE_ENDING}"
        of_split.append((CocoImage(len(of_split) + 1, file_name, *settings.size_wh_px), instances))
    categories = [CocoCategory(class_id, name) for class_id, name in CLASSES.items()]
    return tuple(write_converted(output / f"{split}.json", each, categories) for split, each in content.items())


def _find_images(root: Path, settings: CityscapesSettings) -> tuple[list[_StreetImage], list[Problem]]:
    """Return the images that have labels, by split and sorted by name, and what is wrong with the others."""
    found: list[_StreetImage] = []
    problems: list[Problem] = []
    cities: set[str] = set()
    for split in settings.splits:
        images = _names(root / "leftImg8bit" / split, _IMAGE_ENDING)
        labels = _names(root / "gtFine" / split, _LABEL_ENDING)
        for folder, names in ((f"leftImg8bit/{split}", images), (f"gtFine/{split}", labels)):
            if not names:
                problems.append(Problem(folder, "holds no images: is this the folder of Cityscapes?"))
        cities |= {_city(name) for name in images | labels}
        for name in sorted(images | labels):
            image = _StreetImage(name, split)
            if settings.cities and _city(name) not in settings.cities:
                continue
            if name in images and name in labels:
                found.append(image)
            elif name in labels and images:
                problems.append(Problem(image.labels, f"has no image {image.image}"))
            elif name in images and labels:
                problems.append(Problem(image.image, f"has no labels {image.labels}"))
    known = ", ".join(sorted(cities))
    problems += [Problem("cities", f"{city!r} is not among: {known}") for city in settings.cities if city not in cities]
    return found, problems


def _names(folder: Path, ending: str) -> set[str]:
    return {path.relative_to(folder).as_posix().removesuffix(ending) for path in folder.glob(f"*/*{ending}")}


def _city(name: str) -> str:
    return name.split("/")[0]


def _read_image(root: Path, size_wh_px: tuple[int, int], image: _StreetImage) -> tuple[list[Instance], list[Problem]]:
    instances: list[Instance] = []
    problems = []
    try:
        check_image_header(root / image.image, size_wh_px)
    except ImageError as error:
        problems.append(Problem(image.image, str(error)))
    try:
        instances += _instances(read_label_image(root / image.labels, size_wh_px))
    except ImageError as error:
        problems.append(Problem(image.labels, str(error)))
    return instances, problems


def label_file(image_file_name: str) -> str:
    """Return the label image of an image, relative to `gtFine`/{split} as the image is to `leftImg8bit`/{split}.

    Raise ImageError if the name is not that of an image of Cityscapes.
    """
    if not image_file_name.endswith(_IMAGE_ENDING):
        raise ImageError(f"{image_file_name} is not an image of Cityscapes: its name does not end in {_IMAGE_ENDING}")
    return image_file_name.removesuffix(_IMAGE_ENDING) + _LABEL_ENDING


def read_label_image(path: Path, size_wh_px: tuple[int, int]) -> NDArray[np.uint16]:
    """Read a label image, (height, width), that holds values of Cityscapes only. Raise ImageError if it does not."""
    check_image_header(path, size_wh_px)
    try:
        with Image.open(path, formats=("PNG",)) as image:
            kind = image.mode
            labels = np.asarray(image)
    except (OSError, SyntaxError) as error:  # what Pillow raises for a damaged PNG
        raise ImageError(f"cannot be decoded, the file is damaged: {error}") from error
    if kind != "I;16":
        raise ImageError(f"is not a label image: its pixels are {kind}, those of labels 16-bit grey (I;16)")
    for value in np.unique(labels[labels > _LAST_CLASS]).tolist():
        if value // FIRST_INSTANCE not in _WITH_INSTANCES:
            raise ImageError(f"is not a label image: the value {value} is neither a class nor an instance")
    return labels


def _instances(labels: NDArray[np.uint16]) -> Iterator[Instance]:
    """Yield the instances and groups of the eight classes, by rising label."""
    # COCO's run lengths go down the columns: transposed once, every mask below is in that order already.
    columns = np.ascontiguousarray(labels.T)
    for label in np.unique(labels[labels >= _WITH_INSTANCES.start]).tolist():
        is_crowd = label < FIRST_INSTANCE
        category_id = label if is_crowd else label // FIRST_INSTANCE
        if category_id in CLASSES:
            yield Instance(category_id, encode_mask((columns == label).T), is_crowd)
