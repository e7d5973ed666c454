"""Write the lists of images that all stages work from, once, from what an experiment names.

labelled.json       images and annotations to learn from
unlabelled.json     images alone
validation.json     images and annotations to measure on, where the experiment names any
unreadable.txt      files of an unlabelled folder that were left out, with the reasons
measuring_only/     annotations of the unlabelled images; used for measuring, never for training
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoDataset, CocoImage
from pipeline.coco.paths import resolve_image_path
from pipeline.coco.reading import read_coco
from pipeline.coco.writing import write_coco
from pipeline.datasets.settings import AnnotatedSet, DataSettings, ListedData, PairedData, PercentData, UnlabelledSet
from pipeline.datasets.split import LABELLED, TRUTH, UNLABELLED, split_by_list, split_by_percent, write_split
from pipeline.errors import DatasetError, ImageError, Problem
from pipeline.files.identity import list_images

VALIDATION = "validation.json"
UNREADABLE = "unreadable.txt"


@dataclass(frozen=True)
class ListCounts:
    """Number of images in each list, and of unreadable files, which are in no list.

    validation_too: how many of the labelled and of the unlabelled images are validation images as well.
    """

    labelled: int
    unlabelled: int
    validation: int = 0
    unreadable: int = 0
    validation_too: tuple[int, int] = (0, 0)


def write_lists(data: DataSettings, folder: Path) -> ListCounts:
    """Write all lists into `folder`; DatasetError for annotations that cannot be used."""
    if isinstance(data, PairedData):
        labelled, unlabelled, unreadable = _keep_apart(data.labelled, data.unlabelled, folder)
    else:
        labelled, unlabelled = _divide(data, folder)
        unreadable = 0
    if data.validation is None:
        return ListCounts(len(labelled.images), len(unlabelled.images), unreadable=unreadable)
    validation = read_coco(data.validation.annotations)
    _require_same_categories(labelled, validation)
    write_coco(folder / VALIDATION, validation.images, validation.categories, validation.annotations)
    measured = _files(validation, data.validation.images)
    too_labelled = _files(labelled, data.labelled_source.images) & measured
    too_unlabelled = _files(unlabelled, data.unlabelled_source.images) & measured
    return ListCounts(
        labelled=len(labelled.images),
        unlabelled=len(unlabelled.images),
        validation=len(validation.images),
        unreadable=unreadable,
        validation_too=(len(too_labelled), len(too_unlabelled)),
    )


def every_image(data: DataSettings) -> tuple[CocoImage, ...]:
    """Return the unlabelled images, and those labelled ones that are in the same set."""
    if isinstance(data, PairedData):
        return _read_unlabelled(data.unlabelled)[0].images
    return read_coco(data.annotated.annotations).images


def _file(image: CocoImage, image_root: Path) -> Path:
    return resolve_image_path(image_root, image.file_name).resolve()


def _files(dataset: CocoDataset, image_root: Path) -> frozenset[Path]:
    return frozenset(_file(image, image_root) for image in dataset.images)


def _divide(data: PercentData | ListedData, folder: Path) -> tuple[CocoDataset, CocoDataset]:
    """Write the labelled and the unlabelled part of one annotated set."""
    dataset = read_coco(data.annotated.annotations)
    if isinstance(data, ListedData):
        split = split_by_list(dataset, data.labelled_list)
    else:
        split = split_by_percent(dataset, data.percent, data.seed)
    if not split.unlabelled_ids:
        raise DatasetError(str(dataset.path), [Problem("data.annotated", "no image is left to be unlabelled")])
    return write_split(dataset, split, folder)


def _keep_apart(
    labelled_set: AnnotatedSet, unlabelled_set: UnlabelledSet, folder: Path
) -> tuple[CocoDataset, CocoDataset, int]:
    """Write labelled and unlabelled images of two sets; return how many files are unreadable, too."""
    labelled = read_coco(labelled_set.annotations)
    found, unreadable = _read_unlabelled(unlabelled_set)
    unlabelled = _without_labelled(found, unlabelled_set.images, _files(labelled, labelled_set.images))
    write_coco(folder / LABELLED, labelled.images, labelled.categories, labelled.annotations)
    write_coco(folder / UNLABELLED, unlabelled.images, labelled.categories, None)
    if unlabelled.annotations:
        _require_same_categories(labelled, unlabelled)
        write_coco(folder / TRUTH, unlabelled.images, unlabelled.categories, unlabelled.annotations)
    if unreadable:
        text = "".join(f"{problem}\n" for problem in unreadable)
        (folder / UNREADABLE).write_text(text, encoding="utf-8", errors="backslashreplace")
    return labelled, unlabelled, len(unreadable)


def _read_unlabelled(unlabelled: UnlabelledSet) -> tuple[CocoDataset, Sequence[Problem]]:
    """Return the images that a COCO file lists, else those of the folder; and the files that cannot be read."""
    if unlabelled.annotations is not None:
        return read_coco(unlabelled.annotations, annotations_required=False), ()
    images: list[CocoImage] = []
    unreadable: list[Problem] = []
    names = list_images(unlabelled.images)
    folder = ImageFolder.of(unlabelled.images, names)
    for number, name in enumerate(names, start=1):
        try:
            images.append(CocoImage(number, name, *folder.size(name)))
        except ImageError as error:
            unreadable.append(Problem(name, str(error)))
    if not images:
        reasons = unreadable or [Problem("data.unlabelled.images", "there is no image in this folder")]
        raise DatasetError(str(unlabelled.images), reasons)
    return CocoDataset(unlabelled.images, tuple(images), (), ()), unreadable


def _without_labelled(unlabelled: CocoDataset, image_root: Path, labelled: frozenset[Path]) -> CocoDataset:
    """Return the unlabelled images without labelled ones, which may be in the same folder."""
    kept = [image.id for image in unlabelled.images if _file(image, image_root) not in labelled]
    if not kept:
        message = "every image is labelled: no image is left to be unlabelled"
        raise DatasetError(str(unlabelled.path), [Problem("data.unlabelled", message)])
    return unlabelled if len(kept) == len(unlabelled.images) else unlabelled.subset(kept)


def _require_same_categories(labelled: CocoDataset, other: CocoDataset) -> None:
    """Raise DatasetError where an id means another category than among the labelled images."""
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
