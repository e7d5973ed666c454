"""Chooses a threshold of the class score for each class, so that images have as many labels as labelled images have.

A detector finds few instances of a rare or a hard class above a threshold that suits the others. The labelled images
say how many instances of each class an image has on average; the threshold of a class is the score from which on the
unlabelled images have as many labels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from pipeline.coco.model import CocoCategory, CocoDataset
from pipeline.labels.rows import Decision, ImageLabels, Status

CLASS_THRESHOLDS: Final = "class_thresholds"
"""Key of the chosen thresholds in the provenance of a label store: a score by category id."""
_MOST_NAMED: Final = 12


@dataclass(frozen=True)
class ThresholdRule:
    """What thresholds are chosen by.

    instances_per_image: of the labelled images, by category id; a class that is missing has none. lowest, highest: the
    bounds of every threshold.
    """

    instances_per_image: Mapping[int, float]
    lowest: float
    highest: float

    @classmethod
    def of_labelled(cls, labelled: CocoDataset, lowest: float, highest: float) -> ThresholdRule:
        """Return the rule that follows from labelled images; crowds are no instances."""
        counts = Counter(each.category_id for each in labelled.annotations if not each.iscrowd)
        images = max(1, len(labelled.images))
        return cls({category: count / images for category, count in counts.items()}, lowest, highest)

    def thresholds(self, candidates: Iterable[ImageLabels], categories: Iterable[CocoCategory]) -> dict[int, float]:
        """Return the threshold of each category by id.

        candidates: the labels of all unlabelled images, down to `lowest`. Failed images and dropped instances do not
        count.
        """
        images = 0
        scores: dict[int, list[float]] = defaultdict(list)
        for row in candidates:
            images += row.status is not Status.FAILED
            for each in row.instances:
                if each.decision is not Decision.DROPPED:
                    scores[each.category_id].append(each.score)
        return {
            category.id: self._threshold(scores[category.id], images, self.instances_per_image.get(category.id, 0.0))
            for category in categories
        }

    def _threshold(self, scores: list[float], images: int, instances_per_image: float) -> float:
        wanted = round(images * instances_per_image)
        if wanted == 0:
            return self.highest
        if wanted > len(scores):
            return self.lowest
        return min(max(sorted(scores, reverse=True)[wanted - 1], self.lowest), self.highest)


def above_thresholds(labels: ImageLabels, thresholds: Mapping[int, float]) -> ImageLabels:
    """Return the image with the instances that reach the threshold of their class; dropped ones stay."""
    if labels.status is Status.FAILED:
        return labels
    kept = tuple(
        each
        for each in labels.instances
        if each.decision is Decision.DROPPED or each.score >= thresholds[each.category_id]
    )
    return replace(labels, instances=kept, status=Status.OK if kept else Status.EMPTY)


def recorded(thresholds: Mapping[int, float]) -> dict[str, Any]:
    """Return thresholds as they stand in the provenance of a label store."""
    return {CLASS_THRESHOLDS: {str(category): threshold for category, threshold in thresholds.items()}}


def thresholds_in_words(provenance: Mapping[str, Any], categories: Iterable[CocoCategory]) -> str:
    """Return the thresholds that a store's provenance records, by the names of the classes; empty without any."""
    thresholds = provenance.get(CLASS_THRESHOLDS, {})
    named = {each.name: thresholds[str(each.id)] for each in categories if str(each.id) in thresholds}
    if len(named) <= _MOST_NAMED:
        return ", ".join(f"{name} {threshold:.2f}" for name, threshold in named.items())
    values = named.values()
    return f"{len(named)} classes from {min(values):.2f} to {max(values):.2f}, the median {median(values):.2f}"
