"""Divide one annotated set into labelled, validation and unlabelled images, each with its share of every class."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.coco.model import CocoDataset
from pipeline.coco.writing import write_coco
from pipeline.datasets.lists import VALIDATION
from pipeline.datasets.split import LABELLED, TRUTH, UNLABELLED, Split, covering_images, drawn_order, write_split
from pipeline.errors import DatasetError, Problem, ProblemsError
from pipeline.files.writing import refuse_existing

PARTS: Final = ("labelled", "validation", "unlabelled")

_WITHOUT_INSTANCES: Final = None
"""Stands among the classes of an image for having none, so that such images are shared out too."""

_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)")


@dataclass(frozen=True)
class Amount:
    """A number of images, or a percentage of them."""

    value: float
    is_percent: bool

    @classmethod
    def parse(cls, name: str, text: str) -> Amount:
        """Read `20` or `20%`; raise ProblemsError, by name, for anything else."""
        found = _AMOUNT.fullmatch(text.strip())
        if found is None or (not found[2] and "." in found[1]):
            raise ProblemsError(
                "split-off", [Problem(name, f"{text!r} is neither a count, as 20, nor a share, as 20%")]
            )
        return cls(float(found[1]), bool(found[2]))

    def of(self, images: int) -> int:
        """Return the number of images; of a percentage over 0, at least one."""
        if not self.is_percent:
            return int(self.value)
        return max(1, round(images * self.value / 100)) if self.value else 0


@dataclass(frozen=True)
class SplitOff:
    """The image ids of each part, sorted."""

    labelled: tuple[int, ...]
    validation: tuple[int, ...]
    unlabelled: tuple[int, ...]

    def images_by_class(self, dataset: CocoDataset) -> dict[str, tuple[int, int, int]]:
        """Return for the name of each class how many images show it, by part."""
        shown = _classes_by_image(dataset)
        counts = [Counter(each for image in part for each in shown[image]) for part in self._parts]
        return {
            category.name: (counts[0][category.id], counts[1][category.id], counts[2][category.id])
            for category in dataset.categories
        }

    @property
    def _parts(self) -> tuple[tuple[int, ...], ...]:
        return self.labelled, self.validation, self.unlabelled


def split_off(dataset: CocoDataset, labelled: Amount, validation: Amount, seed: int) -> SplitOff:
    """Divide the images; DatasetError for amounts that leave no image unlabelled.

    Labelled images show every class where there is room, then so do validation images. The others go where their
    classes are missing most, the rarest class first: each part gets its share of the images of every class. The choice
    depends on seed and ids, not on the order of the file.
    """
    total = len(dataset.images)
    sizes = {"labelled": labelled.of(total), "validation": validation.of(total)}
    sizes["unlabelled"] = total - sum(sizes.values())
    if not sizes["labelled"]:
        raise DatasetError(str(dataset.path), [Problem("labelled", "must be at least one image")])
    if sizes["unlabelled"] < 1:
        chosen = f"{sizes['labelled']:,} labelled and {sizes['validation']:,} validation images"
        raise DatasetError(str(dataset.path), [Problem("", f"has {total:,} images: {chosen} leave none unlabelled")])
    order = drawn_order(dataset, seed)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    left = order
    for part in ("labelled", "validation"):
        parts[part] += list(covering_images(dataset, left))[: sizes[part]]
        taken = set(parts[part])
        left = [image_id for image_id in left if image_id not in taken]
    _share_out(_classes_by_image(dataset), left, parts, sizes)
    return SplitOff(*(tuple(sorted(parts[part])) for part in PARTS))


def write_split_off(dataset: CocoDataset, split: SplitOff, folder: Path) -> None:
    """Write a COCO file for each part; the annotations of the unlabelled images are apart, for measuring."""
    refuse_existing([folder / name for name in (LABELLED, VALIDATION, UNLABELLED, TRUTH)])
    write_split(dataset, Split(split.labelled, split.unlabelled), folder)
    if split.validation:
        measured = dataset.subset(split.validation)
        write_coco(folder / VALIDATION, measured.images, measured.categories, measured.annotations)


def _classes_by_image(dataset: CocoDataset) -> dict[int, frozenset[int | None]]:
    """Return the classes that each image shows; crowds do not count."""
    return {
        image_id: frozenset(each.category_id for each in dataset.instances(image_id))
        or frozenset((_WITHOUT_INSTANCES,))
        for image_id in dataset.image_by_id
    }


def _share_out(
    shown: Mapping[int, frozenset[int | None]],
    left: Iterable[int],
    parts: Mapping[str, list[int]],
    sizes: Mapping[str, int],
) -> None:
    """Add the images that are left to the parts, up to their sizes."""
    totals = Counter(each for classes in shown.values() for each in classes)
    needs = {part: {each: count * sizes[part] / len(shown) for each, count in totals.items()} for part in PARTS}

    def take(part: str, image_id: int) -> None:
        for each in shown[image_id]:
            needs[part][each] -= 1

    for part, image_ids in parts.items():
        for image_id in image_ids:
            take(part, image_id)
    unassigned = dict.fromkeys(left)
    waiting: dict[int | None, list[int]] = defaultdict(list)
    for image_id in unassigned:
        for each in shown[image_id]:
            waiting[each].append(image_id)
    while unassigned:
        for each in waiting:
            waiting[each] = [image_id for image_id in waiting[each] if image_id in unassigned]
        rarest = min((each for each in waiting if waiting[each]), key=lambda each: (len(waiting[each]), str(each)))
        for image_id in waiting.pop(rarest):
            room = {part: sizes[part] - len(parts[part]) for part in PARTS if len(parts[part]) < sizes[part]}
            part = max(room, key=lambda name: (needs[name][rarest], room[name] / sizes[name]))
            parts[part].append(image_id)
            del unassigned[image_id]
            take(part, image_id)
