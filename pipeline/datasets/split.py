"""Divide the images of a dataset into labelled and unlabelled ones, and write a file of each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from pipeline.coco.model import CocoDataset, CocoImage
from pipeline.coco.reading import read_coco
from pipeline.coco.writing import write_coco
from pipeline.errors import DatasetError, Problem
from pipeline.files.reading import read_file

LABELLED = "labelled.json"
UNLABELLED = "unlabelled.json"
# The annotations of the unlabelled images are in a folder of their own, so that no training uses them by accident.
TRUTH = "measuring_only/unlabelled_truth.json"

_SHOWN = 3
_CITYSCAPES_SUFFIX = "_leftImg8bit"


@dataclass(frozen=True)
class Split:
    """Image ids; of a split by percent in the order drawn, so that a larger split begins with a smaller one."""

    labelled_ids: tuple[int, ...]
    unlabelled_ids: tuple[int, ...]


def split_by_percent(dataset: CocoDataset, percent: float, seed: int) -> Split:
    """Label round(images * percent / 100) images, at least one; DatasetError for an impossible percent.

    The choice depends on seed and ids, not on the order of the file; with one seed, the 5 % are among the
    10 %. Images that show every category come first, so that each is labelled where there is room.
    """
    if not 0 < percent <= 100:
        raise DatasetError(str(dataset.path), [Problem("percent", f"{percent:g} is not over 0 and up to 100")])
    shuffled = drawn_order(dataset, seed)
    covering = covering_images(dataset, shuffled)
    order = [*covering, *(image_id for image_id in shuffled if image_id not in covering)]
    labelled = max(1, round(len(order) * percent / 100))
    return Split(tuple(order[:labelled]), tuple(order[labelled:]))


def drawn_order(dataset: CocoDataset, seed: int) -> list[int]:
    """Return the ids of all images in an order that depends on the seed and the ids, not on the file."""
    return sorted(dataset.image_by_id, key=lambda image_id: _draw(seed, image_id))


def _draw(seed: int, image_id: int) -> bytes:
    # A hash and not a generator: the draw of an image does not depend on the other images.
    return hashlib.blake2b(f"{seed}:{image_id}".encode(), digest_size=16).digest()


def covering_images(dataset: CocoDataset, shuffled: Iterable[int]) -> dict[int, None]:
    """Return the images to take first, as keys: for each category, rarest first, one that shows most others.

    Crowds do not count: no detector is trained on them.
    """
    categories_by_image: dict[int, set[int]] = {}
    images_by_category: dict[int, list[int]] = defaultdict(list)
    for image_id in shuffled:
        shown = {each.category_id for each in dataset.instances(image_id)}
        categories_by_image[image_id] = shown
        for category_id in shown:
            images_by_category[category_id].append(image_id)
    covering: dict[int, None] = {}
    uncovered = set(images_by_category)
    for category_id in sorted(images_by_category, key=lambda each: (len(images_by_category[each]), each)):
        if category_id in uncovered:
            # Among equals, max takes the first, and that is by the draw.
            candidates = images_by_category[category_id]
            best = max(candidates, key=lambda each: len(categories_by_image[each] & uncovered))
            covering[best] = None
            uncovered -= categories_by_image[best]
    return covering


def split_by_list(dataset: CocoDataset, path: Path) -> Split:
    """Label the images of a list; DatasetError with every entry that is unknown, ambiguous or repeated.

    The list is a text file of one image a line, a JSON list, or a COCO file of the labelled images. An
    image is named by its id, its file name or its base name, with or without suffix, Cityscapes' also without
    `_leftImg8bit`. Both results are in the order of ids.
    """
    entries = _read_entries(path)
    if not entries:
        raise DatasetError(str(path), [Problem("", "names no image")])
    finder = _Finder(dataset.images)
    problems: list[Problem] = []
    named_at: dict[int, str] = {}
    for where, value in entries:
        found = finder.find(value)
        if not found:
            problems.append(Problem(where, f"{value!r} is not an image of {dataset.path}"))
        elif len(found) > 1:
            names = ", ".join(f"{each} ({dataset.image_by_id[each].file_name})" for each in found[:_SHOWN])
            problems.append(Problem(where, f"{value!r} may be any of the images {names}: write whole file names"))
        elif found[0] in named_at:
            problems.append(Problem(where, f"{value!r} was named before, at {named_at[found[0]]}"))
        else:
            named_at[found[0]] = where
    if problems:
        raise DatasetError(str(path), problems)
    unlabelled = sorted(image_id for image_id in dataset.image_by_id if image_id not in named_at)
    return Split(tuple(sorted(named_at)), tuple(unlabelled))


def write_split(dataset: CocoDataset, split: Split, folder: Path) -> tuple[CocoDataset, CocoDataset]:
    """Write and return the labelled and the unlabelled images. The truth of the unlabelled ones is another file."""
    labelled, unlabelled = dataset.subset(split.labelled_ids), dataset.subset(split.unlabelled_ids)
    write_coco(folder / LABELLED, labelled.images, labelled.categories, labelled.annotations)
    write_coco(folder / UNLABELLED, unlabelled.images, unlabelled.categories, None)
    write_coco(folder / TRUTH, unlabelled.images, unlabelled.categories, unlabelled.annotations)
    return labelled, unlabelled


def _read_entries(path: Path) -> list[tuple[str, int | str]]:
    """Return every entry of a list and where it is in the file."""
    try:
        data = read_file(path)
    except OSError as error:
        raise DatasetError(str(path), [Problem("", f"cannot be read: {error.strerror}")]) from error
    if data.lstrip().startswith(b"{"):
        listed = read_coco(path, annotations_required=False).images
        return [(f"image {image.id}", image.file_name) for image in listed]
    try:
        if data.lstrip().startswith(b"["):
            values = msgspec.json.decode(data, type=list[int | str])
            return [(f"entry {number}", value) for number, value in enumerate(values, start=1)]
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except ValueError as error:  # msgspec's and Unicode's errors are ValueErrors
        message = f"is neither a text file nor a JSON list of ids and names: {error}"
        raise DatasetError(str(path), [Problem("", message)]) from error
    return [(f"line {number}", line) for number, line in enumerate(lines, start=1) if line]


class _Finder:
    """The images by what lists call them."""

    def __init__(self, images: Iterable[CocoImage]) -> None:
        self._ids: set[int] = set()
        self._by_file_name: dict[str, set[int]] = defaultdict(set)
        self._by_short_name: dict[str, set[int]] = defaultdict(set)
        for image in images:
            self._ids.add(image.id)
            self._by_file_name[image.file_name].add(image.id)
            path = PurePosixPath(image.file_name)
            for short in (path.name, path.stem, str(path.parent / path.stem)):
                self._by_short_name[short].add(image.id)
                self._by_short_name[short.removesuffix(_CITYSCAPES_SUFFIX)].add(image.id)
            self._by_short_name[str(image.id)].add(image.id)

    def find(self, value: int | str) -> list[int]:
        """Return the ids of all images that may be meant; a whole file name means only the image of that name."""
        if isinstance(value, int):
            return [value] if value in self._ids else []
        return sorted(self._by_file_name.get(value) or self._by_short_name.get(value) or ())
