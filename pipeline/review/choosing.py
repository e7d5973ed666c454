"""Chooses the instances of a refined store that people should check first; needs no truth.

worth = score * (1 - min(agreement, predicted_iou, gate_confidence, 1 - class_agreement of another class))

The confidence that there is an object, times the doubt about its mask or its class; measures that an instance lacks are
left out. Its class is doubted if similar labelled instances agree on another one.
A dropped instance has a gate confidence of 0, so that its worth is its score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.coco.model import CocoCategory
from pipeline.errors import StoreError
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel

CLASS_SHARE = 1.5
"""No class gets more than this many times its even share of the list, as long as others have candidates."""

_MEASURES = ("agreement", "predicted_iou", "gate_confidence")


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why to check an instance. rank: its rank in the list, from 1; None if it is dropped and not in the list."""

    worth: float
    reason: str
    rank: int | None = None


@dataclass(frozen=True)
class ReviewImage:
    """An image to correct as a whole. marks: of the instances to check, by their index in the image."""

    labels: ImageLabels
    marks: Mapping[int, Mark]


@dataclass(frozen=True)
class Review:
    """The images to correct, in the order of the list of instances. failed: images without labels, with reasons."""

    images: tuple[ReviewImage, ...]
    failed: tuple[ImageLabels, ...]
    categories: tuple[CocoCategory, ...]

    @property
    def ranked(self) -> int:
        """Count the instances in the list."""
        return sum(mark.rank is not None for image in self.images for mark in image.marks.values())

    @property
    def names(self) -> dict[int, str]:
        """Return the names of the categories by id."""
        return {category.id: category.name for category in self.categories}


def choose(store: LabelStore, top: int, per_image: int) -> Review:
    """Choose the `top` instances of most worth, at most `per_image` of an image; the same store gives the same list.

    Equal worths go by image id, then by index in the image. Raises StoreError if no instance has a worth above 0.
    """
    worth = _worths(store)
    offsets = store.column("images/instance_offsets")
    image_of = np.repeat(np.arange(len(store)), np.diff(offsets))
    candidates = np.flatnonzero(worth > 0)
    if not len(candidates):
        raise StoreError(
            f"{store.path}: no instance is doubtful, since the labels have no measures of SAM: give refined labels "
            "(EXPERIMENT:refine, with another refine.gate than teacher)."
        )
    by_worth = np.lexsort((candidates, store.image_ids[image_of[candidates]], -worth[candidates]))
    ordered = candidates[by_worth]
    chosen = _spread(
        image_of[ordered].tolist(), store.column("instances/category_id")[ordered].tolist(), top, per_image
    )
    ranks = {int(ordered[index]): rank for rank, index in enumerate(chosen, start=1)}
    positions = dict.fromkeys(int(image_of[instance]) for instance in ranks)
    return Review(
        images=tuple(
            _review_image(store[each], int(offsets[each]), worth, ranks, store.attributes.names) for each in positions
        ),
        failed=tuple(store.failed()),
        categories=tuple(store.attributes.categories),
    )


def _worths(store: LabelStore) -> NDArray[np.float64]:
    """Return the worth of every instance; 0 for one without measures, and for a mask without a pixel."""
    belief: NDArray[np.float64] = np.fmin.reduce(
        [
            *(store.column(f"instances/{name}").astype(np.float64) for name in _MEASURES),
            1 - store.class_doubts().astype(np.float64),
        ]
    )
    worth = store.column("instances/score").astype(np.float64) * (1 - np.clip(belief, 0, 1))
    return np.where(store.column("instances/area") > 0, np.nan_to_num(worth), 0.0)


def _spread(images: Sequence[int], categories: Sequence[int], top: int, per_image: int) -> list[int]:
    """Return the indices of the instances to list, given image and category of all in the order of worth."""
    by_image: Counter[int] = Counter()
    by_class: Counter[int] = Counter()
    chosen: set[int] = set()
    for class_limit in (ceil(CLASS_SHARE * top / len(set(categories))), top):
        for index, (image, category) in enumerate(zip(images, categories, strict=True)):
            if len(chosen) == top:
                break
            if index not in chosen and by_image[image] < per_image and by_class[category] < class_limit:
                chosen.add(index)
                by_image[image] += 1
                by_class[category] += 1
    return sorted(chosen)


def _review_image(
    labels: ImageLabels,
    first: int,
    worth: NDArray[np.float64],
    ranks: Mapping[int, int],
    names: Mapping[int, str],
) -> ReviewImage:
    """Return the image whose instances begin at `first`; dropped ones have a mark even if they are not in the list."""
    return ReviewImage(
        labels,
        {
            index: Mark(float(worth[first + index]), _reason(instance, names), ranks.get(first + index))
            for index, instance in enumerate(labels.instances)
            if instance.area and (first + index in ranks or instance.decision is Decision.DROPPED)
        },
    )


def _reason(instance: InstanceLabel, names: Mapping[int, str]) -> str:
    dropped = instance.decision is Decision.DROPPED
    doubts = [
        (value, text.format(value))
        for value, text in (
            (instance.agreement, "SAM and the teacher agree to {:.2f}"),
            (instance.predicted_iou, "SAM expects an IoU of {:.2f}"),
            (None if dropped else instance.gate_confidence, "the gate's confidence is {:.2f}"),
        )
        if value is not None
    ]
    vote, share = instance.class_vote, instance.class_agreement
    if vote is not None and share is not None and vote != instance.category_id:
        name = names.get(vote, f"category {vote}")
        doubts.append((1 - share, f"{share:.2f} of the votes of similar labelled instances are for {name}"))
    return ": ".join([*(["dropped"] if dropped else []), *([min(doubts)[1]] if doubts else [])])
