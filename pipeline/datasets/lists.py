"""The lists of images that all stages work from, written once from what an experiment names.

labelled.json       images and annotations to learn from
unlabelled.json     images alone
validation.json     images and annotations to measure on, where the experiment names any
unreadable.txt      files of an unlabelled folder that were passed over, with their reasons
measuring_only/     what is known of the unlabelled images; read by what measures, by nothing that learns
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.coco.model import CocoDataset, CocoImage
from pipeline.coco.paths import resolve_image_path
from pipeline.coco.reading import read_coco
from pipeline.coco.writing import write_coco
from pipeline.datasets.settings import AnnotatedSet, DataSettings, ListedData, PairedData, PercentData, UnlabelledSet
from pipeline.datasets.split import LABELLED, TRUTH, UNLABELLED, split_by_list, split_by_percent, write_split
from pipeline.errors import DatasetError, ImageError, Problem
from pipeline.files.identity import list_images
from pipeline.files.images import image_size

VALIDATION = "validation.json"
UNREADABLE = "unreadable.txt"


@dataclass(frozen=True)
class ListCounts:
    """How many images each list has; `unreadable` files are in none.

    validation_too: how many of the labelled and the unlabelled images are validation images as well.
    """

    labelled: int
    unlabelled: int
    validation: int = 0
    unreadable: int = 0
    validation_too: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Found:
    dataset: CocoDataset
    unreadable: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class _Parts:
    """The labelled and the unlabelled images, and the dataset that says which categories there are."""

    known: CocoDataset
    labelled: Sequence[CocoImage]
    unlabelled: Sequence[CocoImage]
    unreadable: int = 0


def write_lists(data: DataSettings, folder: Path) -> ListCounts:
    """Write all lists into `folder`. Raises DatasetError for annotations that cannot be used."""
    if isinstance(data, PairedData):
        parts = _keep_apart(data.labelled, data.unlabelled, folder)
    else:
        parts = _divide(data, folder)
    counts = ListCounts(len(parts.labelled), len(parts.unlabelled), unreadable=parts.unreadable)
    if data.validation is None:
        return counts
    validation = read_coco(data.validation.annotations)
    _require_same_categories(parts.known, validation)
    write_coco(folder / VALIDATION, validation.images, validation.categories, validation.annotations)
    measured = _files(validation.images, data.validation.images)
    labelled = _files(parts.labelled, data.labelled_source.images)
    unlabelled = _files(parts.unlabelled, data.unlabelled_source.images)
    too = (len(labelled & measured), len(unlabelled & measured))
    return replace(counts, validation=len(validation.images), validation_too=too)


def _files(images: Sequence[CocoImage], image_root: Path) -> frozenset[Path]:
    return frozenset(resolve_image_path(image_root, image.file_name).resolve() for image in images)


def every_image(data: DataSettings) -> tuple[CocoImage, ...]:
    """The images of which the unlabelled ones are what the labelled ones leave."""
    if isinstance(data, PairedData):
        return _read_unlabelled(data.unlabelled).dataset.images
    return read_coco(data.annotated.annotations).images


def _divide(data: PercentData | ListedData, folder: Path) -> _Parts:
    """One annotated set, of which a part plays the labelled images."""
    dataset = read_coco(data.annotated.annotations)
    if isinstance(data, ListedData):
        split = split_by_list(dataset, data.labelled_list)
    else:
        split = split_by_percent(dataset, data.percent, data.seed)
    if not split.unlabelled_ids:
        raise DatasetError(str(dataset.path), [Problem("data.annotated", "no image is left to be unlabelled")])
    write_split(dataset, split, folder)
    labelled, unlabelled = (
        [dataset.image_by_id[image_id] for image_id in ids] for ids in (split.labelled_ids, split.unlabelled_ids)
    )
    return _Parts(dataset, labelled, unlabelled)


def _keep_apart(labelled_set: AnnotatedSet, unlabelled_set: UnlabelledSet, folder: Path) -> _Parts:
    """Labelled and unlabelled images that the experiment names one by one."""
    labelled = read_coco(labelled_set.annotations)
    found = _read_unlabelled(unlabelled_set)
    unlabelled = _without_labelled(found.dataset, unlabelled_set.images, labelled, labelled_set.images)
    write_coco(folder / LABELLED, labelled.images, labelled.categories, labelled.annotations)
    write_coco(folder / UNLABELLED, unlabelled.images, labelled.categories, None)
    if unlabelled.annotations:
        _require_same_categories(labelled, unlabelled)
        write_coco(folder / TRUTH, unlabelled.images, unlabelled.categories, unlabelled.annotations)
    if found.unreadable:
        _write_unreadable(found.unreadable, folder)
    return _Parts(labelled, labelled.images, unlabelled.images, len(found.unreadable))


def _read_unlabelled(unlabelled: UnlabelledSet) -> _Found:
    """The images that a COCO file lists, else every image of the folder that can be read."""
    if unlabelled.annotations is not None:
        return _Found(read_coco(unlabelled.annotations, annotations_required=False))
    images: list[CocoImage] = []
    unreadable: list[Problem] = []
    for number, name in enumerate(list_images(unlabelled.images), start=1):
        try:
            width, height = image_size(unlabelled.images / name)
            images.append(CocoImage(number, name, width, height))
        except ImageError as error:
            unreadable.append(Problem(name, str(error)))
    if not images:
        reasons = unreadable or [Problem("data.unlabelled.images", "there is no image in this folder")]
        raise DatasetError(str(unlabelled.images), reasons)
    return _Found(CocoDataset(unlabelled.images, tuple(images), (), ()), tuple(unreadable))


def _without_labelled(
    unlabelled: CocoDataset, image_root: Path, labelled: CocoDataset, labelled_root: Path
) -> CocoDataset:
    """The unlabelled images that are not labelled ones too, as where both lie in one folder."""
    taken = _files(labelled.images, labelled_root)
    kept = [
        image.id
        for image in unlabelled.images
        if resolve_image_path(image_root, image.file_name).resolve() not in taken
    ]
    if not kept:
        message = "every image is among the labelled ones: none is left to be unlabelled"
        raise DatasetError(str(unlabelled.path), [Problem("data.unlabelled", message)])
    return unlabelled if len(kept) == len(unlabelled.images) else unlabelled.subset(kept)


def _require_same_categories(labelled: CocoDataset, other: CocoDataset) -> None:
    """Refuse a set in which an id means another category than among the labelled images."""
    problems: list[Problem] = []
    for category in other.categories:
        known = labelled.category_by_id.get(category.id)
        if known is None:
            problems.append(Problem(f"category {category.id} ({category.name})", f"not in {labelled.path}"))
        elif known.name != category.name:
            message = f"named {category.name!r}, but {known.name!r} in {labelled.path}"
            problems.append(Problem(f"category {category.id}", message))
    if problems:
        raise DatasetError(str(other.path), problems)


def _write_unreadable(unreadable: Sequence[Problem], folder: Path) -> None:
    text = "".join(f"{problem}\n" for problem in unreadable)
    (folder / UNREADABLE).write_text(text, encoding="utf-8", errors="backslashreplace")
