"""Write the lists of images that all stages work from, once, from what an experiment names.

labelled.json       images and annotations to learn from
unlabelled.json     images alone
validation.json     images and annotations to measure on, where the experiment names any
unreadable.txt      files of an unlabelled folder that were left out, with the reasons
measuring_only/     annotations of the unlabelled images; used for measuring, never for training
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoDataset, CocoImage
from pipeline.coco.paths import resolve_image_path
from pipeline.coco.reading import read_coco
from pipeline.coco.writing import write_coco
from pipeline.datasets.settings import DataSettings, ListedData, PairedData, PercentData, UnlabelledSet
from pipeline.datasets.split import LABELLED, TRUTH, UNLABELLED, split_by_list, split_by_percent, write_split
from pipeline.errors import DatasetError, ImageError, Problem
from pipeline.files.identity import list_images
from pipeline.files.known_files import KnownFiles

VALIDATION = "validation.json"
UNREADABLE = "unreadable.txt"


@dataclass(frozen=True)
class ListCounts:
    """Number of images in each list, and of unreadable files, which are in no list.

    left_out: how many images of the unlabelled set are labelled images, and how many others are validation images.
    validation_too: how many of the labelled and of the unlabelled images are validation images as well.
    """

    labelled: int
    unlabelled: int
    validation: int = 0
    unreadable: int = 0
    left_out: tuple[int, int] = (0, 0)
    validation_too: tuple[int, int] = (0, 0)


def write_lists(data: DataSettings, folder: Path) -> ListCounts:
    """Write all lists into `folder`; DatasetError for annotations that cannot be used.

    Labelled images that are unlabelled too are left out of the unlabelled ones, copies under other names too. So are
    validation images in a folder of unlabelled images; where a file lists the unlabelled images, or one annotated set
    is divided, they are only counted.
    """
    validation = None if data.validation is None else read_coco(data.validation.annotations)
    measured = KnownFiles(())
    if validation is not None and data.validation is not None:
        measured = KnownFiles(_files(validation, data.validation.images))
    left_out, unreadable = (0, 0), 0
    if isinstance(data, PairedData):
        labelled, unlabelled, left_out, unreadable = _keep_apart(data, measured, folder)
    else:
        labelled, unlabelled = _divide(data, folder)
    counts = ListCounts(len(labelled.images), len(unlabelled.images), unreadable=unreadable, left_out=left_out)
    if validation is None:
        return counts
    _require_same_categories(labelled, validation)
    write_coco(folder / VALIDATION, validation.images, validation.categories, validation.annotations)
    too_labelled = sum(file in measured for file in _files(labelled, data.labelled_source.images))
    too_unlabelled = sum(file in measured for file in _files(unlabelled, data.unlabelled_source.images))
    return replace(counts, validation=len(validation.images), validation_too=(too_labelled, too_unlabelled))


def every_image(data: DataSettings) -> tuple[CocoImage, ...]:
    """Return the unlabelled images, and those labelled ones that are in the same set."""
    if isinstance(data, PairedData):
        return _read_unlabelled(data.unlabelled)[0].images
    return read_coco(data.annotated.annotations).images


def _files(dataset: CocoDataset, image_root: Path) -> list[Path]:
    return [resolve_image_path(image_root, image.file_name) for image in dataset.images]


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
    data: PairedData, measured: KnownFiles, folder: Path
) -> tuple[CocoDataset, CocoDataset, tuple[int, int], int]:
    """Write labelled and unlabelled images of two sets; return how many are left out and are unreadable, too."""
    labelled = read_coco(data.labelled.annotations)
    found, unreadable = _read_unlabelled(data.unlabelled)
    known = KnownFiles(_files(labelled, data.labelled.images))
    is_folder = data.unlabelled.annotations is None
    unlabelled, left_out = _without_known(
        found, data.unlabelled.images, known, measured if is_folder else KnownFiles(())
    )
    write_coco(folder / LABELLED, labelled.images, labelled.categories, labelled.annotations)
    write_coco(folder / UNLABELLED, unlabelled.images, labelled.categories, None)
    if unlabelled.annotations:
        _require_same_categories(labelled, unlabelled)
        write_coco(folder / TRUTH, unlabelled.images, unlabelled.categories, unlabelled.annotations)
    if unreadable:
        text = "".join(f"{problem}\n" for problem in unreadable)
        (folder / UNREADABLE).write_text(text, encoding="utf-8", errors="backslashreplace")
    return labelled, unlabelled, left_out, len(unreadable)


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


def _without_known(
    unlabelled: CocoDataset, image_root: Path, labelled: KnownFiles, measured: KnownFiles
) -> tuple[CocoDataset, tuple[int, int]]:
    """Return the images that are neither labelled nor measured, and the numbers of these two kinds."""
    kept: list[int] = []
    of_labelled = of_measured = 0
    for image, file in zip(unlabelled.images, _files(unlabelled, image_root), strict=True):
        if file in labelled:
            of_labelled += 1
        elif file in measured:
            of_measured += 1
        else:
            kept.append(image.id)
    if not kept:
        which = "a labelled or a validation image" if of_measured else "labelled"
        message = f"every image is {which}: no image is left to be unlabelled"
        raise DatasetError(str(unlabelled.path), [Problem("data.unlabelled", message)])
    whole = len(kept) == len(unlabelled.images)
    return unlabelled if whole else unlabelled.subset(kept), (of_labelled, of_measured)


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
