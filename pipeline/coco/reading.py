"""Read a COCO instance file and find everything that is wrong with it, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from pipeline.coco.elements import AnnotationJson, Element, ElementReader, Given, decode_list
from pipeline.coco.json_text import field_problem, read_json_object
from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoDataset, CocoImage
from pipeline.coco.paths import file_name_problem, text_problem
from pipeline.coco.segmentation import Polygons, RleJson, SegmentationChecker, to_rle
from pipeline.errors import DatasetError, Problem
from pipeline.files.images import MAX_IMAGE_PIXELS
from pipeline.masks.run_lengths import area_px

Named = TypeVar("Named", CocoImage, CocoCategory)

See = Callable[[CocoAnnotation, CocoImage, Polygons | RleJson], None]
"""Called with an annotation, its image and its mask as they are in the file."""


@dataclass(frozen=True)
class _Known(Generic[Named]):
    """The usable images or categories by id, in the order of the file, and the ids of those refused."""

    usable: dict[int, Named]
    refused_ids: set[int]


def read_coco(path: Path, *, annotations_required: bool = True) -> CocoDataset:
    """Read and check a COCO instance file; DatasetError with every problem where there is any.

    With `annotations_required=False` (unlabelled images) `annotations` and `categories` may be missing.
    """
    dataset, problems = scan_coco(path, annotations_required=annotations_required)
    if problems:
        raise DatasetError(str(path), problems)
    return dataset


def read_images(path: Path) -> tuple[CocoImage, ...]:
    """Read and check the images alone; DatasetError with every problem of their list where there is any."""
    problems: list[Problem] = []
    given = _given_images(read_json_object(path), problems)
    images = _read_images(given or [], problems)
    if problems:
        raise DatasetError(str(path), problems)
    return tuple(images.usable.values())


def scan_coco(
    path: Path, *, annotations_required: bool, see: See | None = None
) -> tuple[CocoDataset, tuple[Problem, ...]]:
    """Return what is right with a file and what is wrong; DatasetError where it is not a JSON object.

    see: called with each annotation that seems right, in the order of the file; something may be wrong with it yet.
    """
    problems: list[Problem] = []
    top = read_json_object(path)
    needs_categories = annotations_required or "annotations" in top
    given_images = _given_images(top, problems)
    given_categories = _given(top, "categories", CocoCategory, problems, required=needs_categories)
    given_annotations = _given(top, "annotations", AnnotationJson, problems, required=annotations_required)
    images = _read_images(given_images or [], problems)
    categories = _read_categories(given_categories or [], problems)
    # Where a whole list is missing, that is the problem, not every reference into it.
    if given_images is None or given_categories is None:
        given_annotations = None
    annotations = _AnnotationReader(images, categories, problems, see).read(given_annotations or [])
    dataset = CocoDataset(
        path=path,
        images=tuple(images.usable.values()),
        categories=tuple(categories.usable.values()),
        annotations=tuple(annotations),
    )
    return dataset, tuple(problems)


def _given(
    top: Mapping[str, msgspec.Raw], key: str, element_type: type[Element], problems: list[Problem], *, required: bool
) -> Given[Element] | None:
    if key not in top:
        if required:
            problems.append(Problem(key, "is missing"))
        return None
    try:
        return decode_list(top[key], element_type)
    except ValueError as error:
        problems.append(Problem(*field_problem(key, top[key], error)))
        return None


def _given_images(top: Mapping[str, msgspec.Raw], problems: list[Problem]) -> Given[CocoImage] | None:
    given = _given(top, "images", CocoImage, problems, required=True)
    if given is not None and not given:
        problems.append(Problem("images", "is empty: there is no image to work on"))
    return given


def _read_images(given: Given[CocoImage], problems: list[Problem]) -> _Known[CocoImage]:
    reader = ElementReader("image", "images", CocoImage, problems)
    usable = {}
    for image in reader.elements(given):
        if (problem := file_name_problem(image.file_name)) is not None:
            reader.refuse(image.id, "file_name", problem)
        elif image.width * image.height > MAX_IMAGE_PIXELS:
            size = f"{image.width}x{image.height}"
            reader.refuse(image.id, "width", f"{size} are more than {MAX_IMAGE_PIXELS:,} pixels")
        else:
            usable[image.id] = image
    return _Known(usable, reader.refused_ids)


def _read_categories(given: Given[CocoCategory], problems: list[Problem]) -> _Known[CocoCategory]:
    reader = ElementReader("category", "categories", CocoCategory, problems)
    usable = {}
    for category in reader.elements(given):
        if (problem := text_problem(category.name)) is not None:
            reader.refuse(category.id, "name", problem)
        else:
            usable[category.id] = category
    return _Known(usable, reader.refused_ids)


class _AnnotationReader:
    """Reader of the annotations of one file, given its images and categories."""

    def __init__(
        self, images: _Known[CocoImage], categories: _Known[CocoCategory], problems: list[Problem], see: See | None
    ) -> None:
        self._images = images
        self._categories = categories
        self._reader = ElementReader("annotation", "annotations", AnnotationJson, problems)
        self._checker = SegmentationChecker(self._reader.refuse)
        self._see = see

    def read(self, annotations: Given[AnnotationJson]) -> list[CocoAnnotation]:
        """Return every usable annotation, in the order of the file."""
        images, categories, check, see = self._images.usable, self._categories.usable, self._checker.check, self._see
        usable = []
        for given in self._reader.elements(annotations):
            image = images.get(given.image_id)
            if image is None or given.category_id not in categories:
                self._refuse_references(given)
                continue
            box_problem = _box_problem(given.bbox, image)
            if box_problem is not None:
                self._reader.refuse(given.id, "bbox", box_problem)
            segmentation = check(given.id, given.segmentation, image.width, image.height)
            if segmentation is None or box_problem is not None:
                continue
            annotation = _annotation(given, segmentation, image)
            usable.append(annotation)
            if see is not None:
                see(annotation, image, segmentation)
        self._checker.finish()
        refused_ids = self._reader.refused_ids
        return [each for each in usable if each.id not in refused_ids] if refused_ids else usable

    def _refuse_references(self, given: AnnotationJson) -> None:
        # An image or category that is in the file but was refused has been reported already.
        for field, wanted, known in (
            ("image_id", given.image_id, self._images),
            ("category_id", given.category_id, self._categories),
        ):
            if wanted not in known.usable and wanted not in known.refused_ids:
                self._reader.refuse(given.id, field, f"{wanted} is not in the file")


def _annotation(given: AnnotationJson, segmentation: Polygons | RleJson, image: CocoImage) -> CocoAnnotation:
    area = float(area_px(to_rle(segmentation, image.width, image.height))) if given.area is None else given.area
    return CocoAnnotation(
        given.id, given.image_id, given.category_id, given.bbox, area, given.iscrowd, given.segmentation
    )


def _box_problem(bbox: tuple[float, float, float, float], image: CocoImage) -> str | None:
    x, y, box_width, box_height = bbox
    width, height = image.width, image.height
    right, bottom = x + box_width, y + box_height
    if 0 <= x <= right <= width and 0 <= y <= bottom <= height:
        return None
    if box_width < 0 or box_height < 0:
        return f"has a negative width or height: {list(bbox)}"
    if x > width or y > height or right < 0 or bottom < 0:
        return f"{list(bbox)} lies outside the image of {width}x{height}"
    if x < -width or y < -height or right > 2 * width or bottom > 2 * height:
        return f"{list(bbox)} reaches far outside the image of {width}x{height}"
    return None
