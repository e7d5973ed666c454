"""Which instances of a refined store are most worth a human look; needs no truth.

worth = score * (1 - min(agreement, predicted_iou, gate_confidence))

How sure the detector is that there is something, times how little its mask is believed; measures that an
instance lacks are left out. A dropped instance has a confidence of 0, so that its worth is its score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.model import CocoCategory
from pipeline.errors import StoreError
from pipeline.labels.label_columns import STATUSES
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status

CLASS_SHARE = 1.5
"""No class takes more than this many times its even share of the list, as long as others have candidates."""

_MEASURES = ("agreement", "predicted_iou", "gate_confidence")


@dataclass(frozen=True)
class Mark:
    """Why to look at an instance. `rank` counts in the list, from 1; None where it is only marked for being dropped."""

    rank: int | None
    worth: float
    reason: str


@dataclass(frozen=True)
class ReviewImage:
    """An image to correct, all of it. `marks` are of the instances to look at, by their index in the image."""

    labels: ImageLabels
    marks: Mapping[int, Mark]


@dataclass(frozen=True)
class Review:
    """images: the one with the first instance of the list comes first. failed: images without labels, with reasons."""

    images: tuple[ReviewImage, ...]
    failed: tuple[ImageLabels, ...]
    categories: tuple[CocoCategory, ...]

    @property
    def ranked(self) -> int:
        """Count the instances in the list."""
        return sum(mark.rank is not None for image in self.images for mark in image.marks.values())


def choose(store: LabelStore, top: int, per_image: int) -> Review:
    """Choose the `top` instances of most worth, at most `per_image` of an image; the same store gives the same list.

    Equal worths go by image id, then by index in the image. StoreError where no instance is of any worth.
    """
    worth = _worths(store)
    offsets = store.column("images/instance_offsets")
    image_of = np.repeat(np.arange(len(store)), np.diff(offsets))
    candidates = np.flatnonzero(worth > 0)
    if not len(candidates):
        raise StoreError(
            f"{store.path}: no instance is doubted. That takes SAM's measures: give refined labels (EXPERIMENT:refine, "
            "with another refine.gate than teacher)."
        )
    by_worth = np.lexsort((candidates, store.image_ids[image_of[candidates]], -worth[candidates]))
    ordered = candidates[by_worth]
    chosen = _spread(
        image_of[ordered].tolist(), store.column("instances/category_id")[ordered].tolist(), top, per_image
    )
    ranks = {int(ordered[index]): rank for rank, index in enumerate(chosen, start=1)}
    positions = dict.fromkeys(int(image_of[instance]) for instance in ranks)
    return Review(
        images=tuple(_review_image(store[each], int(offsets[each]), worth, ranks) for each in positions),
        failed=tuple(store[each] for each in _failed_positions(store)),
        categories=tuple(store.attributes.categories),
    )


def _worths(store: LabelStore) -> NDArray[np.float64]:
    """Return the worth of every instance; 0 where nothing was measured, and where the mask has no pixel."""
    belief: NDArray[np.float64] = np.fmin.reduce(
        [store.column(f"instances/{name}").astype(np.float64) for name in _MEASURES]
    )
    worth = store.column("instances/score").astype(np.float64) * (1 - np.clip(belief, 0, 1))
    return np.where(store.column("instances/area") > 0, np.nan_to_num(worth), 0.0)


def _spread(images: Sequence[int], categories: Sequence[int], top: int, per_image: int) -> list[int]:
    """Return the indices of those to list, in order, given the image and the category of all in the order of worth."""
    class_limit = ceil(CLASS_SHARE * top / len(set(categories)))
    by_image: Counter[int] = Counter()
    by_class: Counter[int] = Counter()
    taken: list[int] = []
    held_back: list[int] = []
    for index, (image, category) in enumerate(zip(images, categories, strict=True)):
        if len(taken) == top:
            break
        if by_image[image] == per_image:
            continue
        if by_class[category] == class_limit:
            held_back.append(index)
            continue
        by_image[image] += 1
        by_class[category] += 1
        taken.append(index)
    for index in held_back:
        if len(taken) == top:
            break
        if by_image[images[index]] < per_image:
            by_image[images[index]] += 1
            taken.append(index)
    return sorted(taken)


def _failed_positions(store: LabelStore) -> list[int]:
    failed: list[int] = np.flatnonzero(store.column("images/status") == STATUSES.index(Status.FAILED)).tolist()
    return failed


def _review_image(labels: ImageLabels, first: int, worth: NDArray[np.float64], ranks: Mapping[int, int]) -> ReviewImage:
    """Return the image whose instances begin at `first`; dropped ones are marked, in the list or not."""
    return ReviewImage(
        labels,
        {
            index: Mark(ranks.get(first + index), float(worth[first + index]), _reason(instance))
            for index, instance in enumerate(labels.instances)
            if instance.area and (first + index in ranks or instance.decision is Decision.DROPPED)
        },
    )


def _reason(instance: InstanceLabel) -> str:
    dropped = instance.decision is Decision.DROPPED
    told = [
        (value, text.format(value))
        for value, text in (
            (instance.agreement, "SAM and the teacher agree to {:.2f}"),
            (instance.predicted_iou, "SAM expects an IoU of {:.2f}"),
            (None if dropped else instance.gate_confidence, "the gate's confidence is {:.2f}"),
        )
        if value is not None
    ]
    reasons = [min(told)[1]] if told else []
    return ": ".join(chain(["dropped"] if dropped else [], reasons))
