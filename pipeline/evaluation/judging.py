"""Judges the detections of an image one by one: right, of another class, or false; and the truths that are missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.evaluation.coco_matching import Ints
from pipeline.evaluation.image_sides import ImageTruths
from pipeline.labels.rows import ImageLabels
from pipeline.masks.matching import best_pairs
from pipeline.masks.overlap import rle_ious

FOUND_FROM_IOU: Final = 0.5
"""Least IoU of a detection with the truth that it finds."""


@dataclass(frozen=True)
class JudgedImage:
    """The detections of an image of at least a score, by their index among its labels, and truths by theirs.

    right, confused: pairs of a detection and the truth that it finds, of the same class and of another.
    false: detections that find nothing. missed: truths that nothing finds. Detections on crowds are left out.
    """

    right: tuple[tuple[int, int], ...]
    confused: tuple[tuple[int, int], ...]
    false: tuple[int, ...]
    missed: tuple[int, ...]

    @property
    def errors(self) -> int:
        """Count what is wrong in the image."""
        return len(self.confused) + len(self.false) + len(self.missed)


def judge(labels: ImageLabels, shown: ImageTruths, min_score: float) -> JudgedImage:
    """Judge the detections of an image with at least this score.

    Each finds at most one truth, the largest IoUs first, and truths of its own class before others.
    """
    kept = [index for index, each in enumerate(labels.instances) if each.score >= min_score]
    crowds = shown.truths.crowds
    ious = rle_ious([labels.rle(labels.instances[index]) for index in kept], shown.masks, crowds)
    on_crowd = np.where(crowds[None, :], ious, 0.0).max(axis=1, initial=0.0) >= FOUND_FROM_IOU
    categories = np.array([labels.instances[index].category_id for index in kept], np.int64)
    same_class = categories[:, None] == shown.truths.categories[None, :]
    own = np.where(same_class & ~crowds[None, :], ious, 0.0)
    right = best_pairs(own, FOUND_FROM_IOU)
    others = np.where(crowds[None, :], 0.0, ious)
    for row, column in right:
        others[row, :] = others[:, column] = 0.0
    confused = best_pairs(others, FOUND_FROM_IOU)
    found_rows = {row for row, _ in (*right, *confused)}
    found_columns = {column for _, column in (*right, *confused)}
    return JudgedImage(
        right=tuple((kept[row], column) for row, column in right),
        confused=tuple((kept[row], column) for row, column in confused),
        false=tuple(index for row, index in enumerate(kept) if row not in found_rows and not on_crowd[row]),
        missed=tuple(index for index, crowd in enumerate(crowds.tolist()) if not crowd and index not in found_columns),
    )


class ConfusionCounts:
    """Counts truths by their class and the class that was found for them, over images."""

    def __init__(self, category_ids: Sequence[int]) -> None:
        self._place = {category_id: place for place, category_id in enumerate(category_ids)}
        self._counts = np.zeros((len(category_ids) + 1, len(category_ids) + 1), np.int64)

    def add(self, labels: ImageLabels, shown: ImageTruths, judged: JudgedImage) -> None:
        """Add an image."""
        nothing = len(self._place)
        detected = [self._place[each.category_id] for each in labels.instances]
        true = [self._place[category] for category in shown.truths.categories.tolist()]
        for index, truth in (*judged.right, *judged.confused):
            self._counts[true[truth], detected[index]] += 1
        for index in judged.false:
            self._counts[nothing, detected[index]] += 1
        for truth in judged.missed:
            self._counts[true[truth], nothing] += 1

    def counts(self) -> Ints:
        """Return the counts: rows are true classes, then nothing; columns are found classes, then nothing."""
        return self._counts
