"""Report on a COCO instance file: what is in it, what is wrong, what is odd (the package says which)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.coco.model import CocoDataset
from pipeline.coco.oddities import OddityFinder
from pipeline.coco.paths import resolve_image_path
from pipeline.coco.reading import scan_coco
from pipeline.errors import DatasetError, ImageError, Problem
from pipeline.files.images import check_image_header, read_image

_EXAMPLES = 5

# COCO's own bounds of small and medium, in square pixels.
_SMALL_AREA, _MEDIUM_AREA = 32**2, 96**2


@dataclass(frozen=True)
class CategoryCount:
    """How often a category occurs; crowds count as instances."""

    id: int
    name: str
    instances: int
    images: int


@dataclass(frozen=True)
class CocoReport:
    """Counts of a COCO file and what is wrong with it. Only usable elements are counted.

    `areas`: instances of below 32 x 32 pixels, below 96 x 96, larger, as COCO divides them. `bad_images`: images
    whose files are missing or cannot be used, if the image folder was given. Warnings are summed up by kind, with
    a few examples.
    """

    path: Path
    images: int
    images_without_instances: int
    instances: int
    crowds: int
    categories: tuple[CategoryCount, ...]
    image_sizes: Mapping[tuple[int, int], int]  # number of images by (width, height), the commonest first
    areas: tuple[int, int, int]
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    bad_images: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Say whether nothing is wrong, apart from warnings."""
        return not self.errors and not self.bad_images


def check_coco(
    path: Path,
    image_root: Path | None = None,
    *,
    annotations_required: bool = True,
    decode_pixels: bool = False,
) -> CocoReport:
    """Count and check a COCO file and, where `image_root` is given, the image files it names.

    Only the headers of image files are read, which finds missing files and wrong sizes; with `decode_pixels`
    all pixels are. An unusable annotation file is a report with errors, not an exception.
    """
    finder = OddityFinder()
    try:
        dataset, errors = scan_coco(path, annotations_required=annotations_required, see=finder.see)
    except DatasetError as error:
        dataset, errors = CocoDataset(path, (), (), ()), error.problems
    by_image = dataset.annotations_by_image
    sizes = Counter((image.width, image.height) for image in dataset.images)
    small = sum(each.area < _SMALL_AREA for each in dataset.annotations)
    large = sum(each.area >= _MEDIUM_AREA for each in dataset.annotations)
    categories = _count_categories(dataset)
    return CocoReport(
        path=path,
        images=len(dataset.images),
        images_without_instances=sum(not of_image for of_image in by_image.values()),
        instances=len(dataset.annotations),
        crowds=sum(each.iscrowd for each in dataset.annotations),
        categories=categories,
        image_sizes=dict(sizes.most_common()),
        areas=(small, len(dataset.annotations) - small - large, large),
        errors=errors,
        warnings=(
            *_list_warnings(dataset, categories),
            *(_summed("annotations", kind, ids) for kind, ids in finder.found(dataset).items()),
        ),
        bad_images=() if image_root is None else tuple(_bad_images(dataset, image_root, decode_pixels)),
    )


def _count_categories(dataset: CocoDataset) -> tuple[CategoryCount, ...]:
    instances: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for of_image in dataset.annotations_by_image.values():
        ids = [each.category_id for each in of_image]
        instances.update(ids)
        images.update(set(ids))
    return tuple(CategoryCount(each.id, each.name, instances[each.id], images[each.id]) for each in dataset.categories)


def _list_warnings(dataset: CocoDataset, categories: Iterable[CategoryCount]) -> list[Problem]:
    file_names = Counter(image.file_name for image in dataset.images)
    names = Counter(category.name for category in dataset.categories)
    found = {
        ("images", "without instances"): [
            str(image_id) for image_id, of_image in dataset.annotations_by_image.items() if not of_image
        ],
        ("images", "file names used more than once"): [name for name, count in file_names.items() if count > 1],
        ("categories", "without instances"): [each.name for each in categories if not each.instances],
        ("categories", "names used more than once"): [name for name, count in names.items() if count > 1],
    }
    if not dataset.annotations:  # unlabelled images: they have no instances by intent
        found = {kind: examples for kind, examples in found.items() if kind[1] != "without instances"}
    return [_summed(where, what, examples) for (where, what), examples in found.items() if examples]


def _summed(where: str, what: str, examples: Sequence[object]) -> Problem:
    shown = ", ".join(map(str, examples[:_EXAMPLES])) + (", …" if len(examples) > _EXAMPLES else "")
    return Problem(where, f"{len(examples):,} {what} ({shown})")


def _bad_images(dataset: CocoDataset, image_root: Path, decode_pixels: bool) -> Iterable[Problem]:
    read = read_image if decode_pixels else check_image_header
    for image in dataset.images:
        try:
            read(resolve_image_path(image_root, image.file_name), (image.width, image.height))
        except ImageError as error:
            yield Problem(f"image {image.id} ({image.file_name})", str(error))
