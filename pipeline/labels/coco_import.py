"""Reads labels from a COCO file: the results list or the dataset of any detector or annotation tool.

A results list names images and categories by the ids of the dataset that the labels are for. A dataset has its own
ids: its images are matched by file name and its categories by name. A dataset may leave out scores, which are 1 then.
Both may have mask scores under `mask_score`, apart from the class scores under `score`.
Boxes and areas are computed from the masks; `dataset_rows` says what crowds and masks without a pixel become. Every
mask counts as the teacher's, unless the decisions that this project's own exports have are wanted. Of instances with
the same mask and category, which detectors without suppression return, the one with the highest class score is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec
import xxhash

from pipeline.coco.json_text import field_problem, read_json_object
from pipeline.coco.model import CocoCategory, CocoImage, Id
from pipeline.coco.segmentation import SegmentationChecker, decode_segmentation, to_rle
from pipeline.errors import DatasetError, Problem
from pipeline.files.reading import read_file, require_regular
from pipeline.labels.dataset_rows import Scores, label_from_annotation, row_of_image
from pipeline.labels.own_measures import MeasuresJson, OwnMeasures, own_measures
from pipeline.labels.rows import ImageLabels, InstanceLabel

_ABSENT = (b"null", b"[]", b"{}")
_MASKS_NEEDED = "boxes alone cannot be refined: export masks, as RLE or polygons"

Listed = TypeVar("Listed", CocoImage, CocoCategory, msgspec.Raw)
Known = TypeVar("Known")


class _EntryJson(MeasuresJson, frozen=True, gc=False, kw_only=True):
    """The fields of an annotation or a result that are read."""

    image_id: Id
    category_id: Id
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    score: float | None = None
    mask_score: float | None = None
    iscrowd: int = 0


@dataclass(frozen=True)
class _File:
    """The entries of a file and what its ids mean.

    key: the key of the entries in the file, with which the fields of problems begin.
    image_by_id: the image to be labelled by the file's id; None for an image that is already reported as unknown.
    category_by_id: the category's id in the dataset by the file's id; None likewise.
    """

    key: str
    entry_texts: list[msgspec.Raw]
    image_by_id: Mapping[int, CocoImage | None]
    category_by_id: Mapping[int, int | None]
    scores_required: bool
    keep_decisions: bool


@dataclass(frozen=True, slots=True)
class _Detection:
    category_id: int
    scores: Scores
    is_crowd: bool
    segmentation: msgspec.Raw
    own: OwnMeasures | None


@dataclass(frozen=True)
class ImportedLabels:
    """The checked labels of a COCO file. A mask stays text until the labels of its image are requested.

    repeated: the number of instances left out because another one has the same mask and category.
    """

    path: Path
    images: tuple[CocoImage, ...]
    repeated: int
    _by_image: Mapping[int, Sequence[_Detection]]

    def __iter__(self) -> Iterator[ImageLabels]:
        return map(self.labels, self.images)

    def labels(self, image: CocoImage) -> ImageLabels:
        """Return the labels of one of the images, in the order of the file; empty where the file has no label of it."""
        return row_of_image(image, (_instance(each, image) for each in self._by_image.get(image.id, ())))


def read_detections(
    path: Path, images: Sequence[CocoImage], categories: Sequence[CocoCategory], *, keep_decisions: bool = False
) -> ImportedLabels:
    """Read and check a results list or a dataset; raise DatasetError with every problem of it.

    images, categories: those of the dataset that the labels are for. keep_decisions: read the decisions and measures
    of this project's own exports too; without it, every mask is a teacher's.
    """
    problems: list[Problem] = []
    file = replace(_opened(path, images, categories, problems), keep_decisions=keep_decisions)
    reader = _EntryReader(file, problems)
    by_image = reader.read()
    if problems:
        raise DatasetError(str(path), problems)
    return ImportedLabels(path, tuple(images), reader.repeated, by_image)


def _instance(detection: _Detection, image: CocoImage) -> InstanceLabel:
    rle = to_rle(decode_segmentation(detection.segmentation), image.width, image.height)
    label = label_from_annotation(rle, detection.category_id, detection.scores, is_crowd=detection.is_crowd)
    return label if detection.own is None else detection.own.added_to(label, is_crowd=detection.is_crowd)


def _opened(
    path: Path, images: Sequence[CocoImage], categories: Sequence[CocoCategory], problems: list[Problem]
) -> _File:
    if is_results_list(path):
        return _File(
            key="",
            entry_texts=_read_results_list(path),
            image_by_id={image.id: image for image in images},
            category_by_id={category.id: category.id for category in categories},
            scores_required=True,
            keep_decisions=False,
        )
    top = read_json_object(path)
    absent = [name for name in ("images", "annotations", "categories") if name not in top]
    if absent:
        problems = [Problem(name, "is missing; a results list is a JSON list") for name in absent]
        raise DatasetError(str(path), problems)
    return _File(
        key="annotations",
        entry_texts=_listed(top, "annotations", msgspec.Raw, problems),
        image_by_id=_images_by_name(_listed(top, "images", CocoImage, problems), images, problems),
        category_by_id=_categories_by_name(_listed(top, "categories", CocoCategory, problems), categories, problems),
        scores_required=False,
        keep_decisions=False,
    )


def is_results_list(path: Path) -> bool:
    """Return whether a file is a results list, which names images by their ids alone."""
    try:
        require_regular(path)
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"[")
    except OSError:
        return False  # reading it says why it cannot be read


def _read_results_list(path: Path) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(read_file(path), type=list[msgspec.Raw])
    except ValueError as error:
        message = f"not JSON: {error}. JSON has no NaN and no Infinity"
        raise DatasetError(str(path), [Problem("", message)]) from error


def _listed(top: Mapping[str, msgspec.Raw], key: str, element: type[Listed], problems: list[Problem]) -> list[Listed]:
    try:
        return msgspec.json.decode(top[key], type=list[element])  # type: ignore[valid-type]
    except ValueError as error:
        problems.append(Problem(*field_problem(key, top[key], error)))
        return []


def _images_by_name(
    listed: Sequence[CocoImage], images: Sequence[CocoImage], problems: list[Problem]
) -> dict[int, CocoImage | None]:
    by_name = {image.file_name: image for image in images}
    found: dict[int, CocoImage | None] = {}
    for index, given in enumerate(listed):
        image = by_name.get(given.file_name)
        where = f"images[{index}]"
        if image is None:
            problems.append(
                Problem(f"{where}.file_name", f"{given.file_name!r} is not among the images to be labelled")
            )
        elif (given.width, given.height) != (image.width, image.height):
            sizes = f"{given.width}x{given.height}, the image is {image.width}x{image.height}"
            problems.append(Problem(f"{where}.width", f"the labels are for {sizes}"))
        if given.id in found:
            problems.append(Problem(f"{where}.id", f"{given.id} is used twice"))
        found[given.id] = image
    return found


def _categories_by_name(
    listed: Sequence[CocoCategory], categories: Sequence[CocoCategory], problems: list[Problem]
) -> dict[int, int | None]:
    by_name = {category.name: category.id for category in categories}
    found: dict[int, int | None] = {}
    for index, given in enumerate(listed):
        where = f"categories[{index}]"
        if given.name not in by_name:
            names = ", ".join(sorted(by_name))
            problems.append(Problem(f"{where}.name", f"{given.name!r} is not a category of the dataset ({names})"))
        if given.id in found:
            problems.append(Problem(f"{where}.id", f"{given.id} is used twice"))
        found[given.id] = by_name.get(given.name)
    return found


class _EntryReader:
    """Reads the annotations or results of one file and adds their problems to `problems`."""

    def __init__(self, file: _File, problems: list[Problem]) -> None:
        self._file = file
        self._problems = problems
        self.repeated = 0
        self._index_by_content: dict[tuple[int, int, bytes], int] = {}
        self._checker = SegmentationChecker(self._refuse)

    def read(self) -> dict[int, list[_Detection]]:
        """Return the detections by the id of the image to be labelled."""
        by_image: dict[int, list[_Detection]] = defaultdict(list)
        entries = list(self._entries())
        if entries and all(bytes(entry.segmentation) in _ABSENT for _, entry in entries):
            self._problems.append(Problem(self._file.key, f"the file has no masks: {_MASKS_NEEDED}"))
            return by_image
        for index, entry in entries:
            image = self._known(index, "image_id", entry.image_id, self._file.image_by_id)
            category_id = self._known(index, "category_id", entry.category_id, self._file.category_by_id)
            scores = Scores(self._score(index, entry.score), self._mask_score(index, entry.mask_score))
            own = self._own_measures(index, entry)
            if image is not None and category_id is not None:
                self._check_segmentation(index, entry.segmentation, image)
                detection = _Detection(category_id, scores, bool(entry.iscrowd), entry.segmentation, own)
                self._add(detection, image, by_image[image.id])
        self._checker.finish()
        return by_image

    def _entries(self) -> Iterator[tuple[int, _EntryJson]]:
        decoder = msgspec.json.Decoder(_EntryJson)
        for index, text in enumerate(self._file.entry_texts):
            try:
                yield index, decoder.decode(text)
            except (ValueError, RecursionError) as error:
                self._refuse(index, *field_problem("", text, error))

    def _refuse(self, index: int, field: str, message: str) -> None:
        entry = f"{self._file.key}[{index}]"
        self._problems.append(Problem(f"{entry}.{field.removeprefix('.')}".removesuffix("."), message))

    def _known(self, index: int, field: str, file_id: int, known: Mapping[int, Known | None]) -> Known | None:
        if file_id not in known:
            where = "in the file" if self._file.key else "in the dataset to be labelled"
            self._refuse(index, field, f"{file_id} is not {where}")
        return known.get(file_id)

    def _score(self, index: int, score: float | None) -> float:
        if score is None:
            if self._file.scores_required:
                self._refuse(index, "score", "is missing: a result has the detector's confidence, 0 to 1")
            return 1.0
        if not 0 <= score <= 1:
            self._refuse(index, "score", f"is {score:g}, not a confidence between 0 and 1")
        return score

    def _mask_score(self, index: int, mask_score: float | None) -> float | None:
        if mask_score is not None and not 0 <= mask_score <= 1:
            self._refuse(index, "mask_score", f"is {mask_score:g}, not a confidence between 0 and 1")
        return mask_score

    def _own_measures(self, index: int, entry: MeasuresJson) -> OwnMeasures | None:
        if not self._file.keep_decisions:
            return None
        own, problems = own_measures(entry)
        for field, message in problems:
            self._refuse(index, field, message)
        return own

    def _check_segmentation(self, index: int, text: msgspec.Raw, image: CocoImage) -> None:
        if bytes(text) in _ABSENT:
            self._refuse(index, "segmentation", f"is missing: {_MASKS_NEEDED}")
        else:
            self._checker.check(index, text, image.width, image.height)

    def _add(self, detection: _Detection, image: CocoImage, known: list[_Detection]) -> None:
        """Add a detection to those of its image; keep the better one of two with the same mask and category."""
        content = (image.id, detection.category_id, xxhash.xxh3_128_digest(bytes(detection.segmentation)))
        index = self._index_by_content.setdefault(content, len(known))
        if index == len(known):
            known.append(detection)
            return
        self.repeated += 1
        if detection.scores.score > known[index].scores.score:
            known[index] = detection
