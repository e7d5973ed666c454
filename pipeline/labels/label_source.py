"""What the commands that read labels need of them, whether they are in a label store or in a COCO file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from pipeline.coco.model import CocoCategory, CocoDataset, CocoImage
from pipeline.coco.paths import file_name_problem
from pipeline.coco.reading import read_coco
from pipeline.errors import DatasetError, Problem, StoreError
from pipeline.labels.coco_import import ImportedLabels, is_results_list, read_detections
from pipeline.labels.rows import ImageLabels


class LabelSource(Protocol):
    """Labels of images, in an order; `LabelStore` and `CocoLabels` are such."""

    @property
    def path(self) -> Path:
        """Return where the labels are."""
        ...

    @property
    def categories(self) -> Sequence[CocoCategory]:
        """Return the categories."""
        ...

    @property
    def instances(self) -> int:
        """Count the instances, dropped ones included."""
        ...

    def __iter__(self) -> Iterator[ImageLabels]: ...

    def __len__(self) -> int: ...

    def find(self, row_id: int) -> int | None:
        """Return the position of an image id; None if there is no such image."""
        ...

    def __getitem__(self, position: int) -> ImageLabels:
        """Return the labels of the image at a position."""
        ...

    def file_names(self) -> Sequence[str]:
        """Return the file names of all images, in their order."""
        ...

    def usable_images(self) -> Sequence[CocoImage]:
        """Return the images that did not fail, in their order."""
        ...


def names_of(source: LabelSource) -> dict[int, str]:
    """Return the names of the categories by id."""
    return {category.id: category.name for category in source.categories}


def written_images(source: LabelSource, target: Path) -> Sequence[CocoImage]:
    """Return the images that did not fail; DatasetError, of the target, for file names that no file may have."""
    images = source.usable_images()
    problems = [
        Problem(f"image {image.id}, file_name", problem)
        for image in images
        if (problem := file_name_problem(image.file_name)) is not None
    ]
    if problems:
        raise DatasetError(str(target), problems)
    return images


@dataclass(frozen=True)
class CocoLabels:
    """The labels of a COCO file, with the decisions and measures that this project's exports have."""

    dataset: CocoDataset
    imported: ImportedLabels

    @classmethod
    def open(cls, path: Path) -> CocoLabels:
        """Read and check a COCO dataset; raise DatasetError with every problem of it."""
        if is_results_list(path):
            message = "is a results list, which has no images: s4m labels import makes a label store of it"
            raise DatasetError(str(path), [Problem("", message)])
        dataset = read_coco(path)
        _require_own_names(dataset)
        imported = read_detections(path, dataset.images, dataset.categories, keep_decisions=True)
        return cls(dataset, imported)

    @property
    def path(self) -> Path:
        """Return the file."""
        return self.dataset.path

    @property
    def categories(self) -> Sequence[CocoCategory]:
        """Return the categories, in the order of the file."""
        return self.dataset.categories

    @property
    def instances(self) -> int:
        """Count the instances, crowds included."""
        return sum(len(labels.instances) for labels in self)

    @property
    def images(self) -> Sequence[CocoImage]:
        """Return the images, in the order of the file."""
        return self.dataset.images

    def __iter__(self) -> Iterator[ImageLabels]:
        return iter(self.imported)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> ImageLabels:
        return self.imported.labels(self.images[position])

    def find(self, row_id: int) -> int | None:
        """Return the position of an image id; None if the file does not have it."""
        return self._position_by_id.get(row_id)

    def file_names(self) -> Sequence[str]:
        """Return the file names of all images, in the order of the file."""
        return [image.file_name for image in self.images]

    def usable_images(self) -> Sequence[CocoImage]:
        """Return all images, in the order of the file."""
        return self.images

    @cached_property
    def _position_by_id(self) -> Mapping[int, int]:
        return {image.id: position for position, image in enumerate(self.images)}


def _require_own_names(dataset: CocoDataset) -> None:
    """Raise DatasetError for names that several images or categories have: labels are matched by them."""
    problems = []
    for key, names in (
        ("images", [image.file_name for image in dataset.images]),
        ("categories", [category.name for category in dataset.categories]),
    ):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        problems += [Problem(key, f"{name!r} is the name of several: give each its own") for name in repeated]
    if problems:
        raise DatasetError(str(dataset.path), problems)


def labels_of(source: LabelSource, image_id: int) -> ImageLabels:
    """Return the labels of an image; StoreError where the source does not have it."""
    position = source.find(image_id)
    if position is None:
        raise StoreError(f"{source.path}: there is no image with the id {image_id}.")
    return source[position]
