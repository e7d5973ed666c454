"""Computes the instance AP of Cityscapes from images that are added one by one.

The figures are those of cityscapesscripts' `evalInstanceLevelSemanticLabeling`. They differ from COCO's in these rules:

- a detection and a truth of its class match where their IoU exceeds a threshold, 0.5 to 0.95 in steps of 0.05, whatever
  else they match; of several matches of one truth the best score is right, the others are wrong;
- truths under 100 pixels do not count, nor do groups; a detection that matches one of them is neither right nor wrong;
- a detection without a match is ignored if more than the threshold's share of it lies on void, on groups or on small
  truths of its class;
- precision is not made monotone, and is summed over half the distance to both neighbouring recalls.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.cityscapes import CLASSES, FIRST_INSTANCE, VOID_CLASSES
from pipeline.masks.crop_mask import CropMask

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MIN_IOUS: Final[Floats] = np.arange(0.5, 1.0, 0.05, dtype=np.float64)
MIN_PIXELS: Final = 100
_VOID: Final = np.array(sorted(VOID_CLASSES))
_VALUES: Final = 2**16


@dataclass(frozen=True)
class CityscapesDetection:
    """A detection: its class as in Cityscapes' labels, its score, and its mask in pixels of the label image."""

    class_id: int
    score: float
    mask: CropMask


@dataclass
class _ClassSums:
    """What is known of a class: for each threshold the scores of right and wrong detections, and the missed truths."""

    right: list[list[float]] = field(default_factory=lambda: [[] for _ in MIN_IOUS])
    wrong: list[list[float]] = field(default_factory=lambda: [[] for _ in MIN_IOUS])
    missed: list[int] = field(default_factory=lambda: [0 for _ in MIN_IOUS])
    truths: int = 0
    detections: int = 0


@dataclass(frozen=True)
class _Truths:
    """The truths of one class in an image, groups included: their values in the label image, and their pixels (G,)."""

    values: NDArray[np.int64]
    pixels: NDArray[np.int64]

    @property
    def groups(self) -> Bools:
        """Return which are groups."""
        return self.values < FIRST_INSTANCE

    @property
    def small(self) -> Bools:
        """Return which are too small to count."""
        return self.pixels < MIN_PIXELS


class CityscapesPrecision:
    """Sums up the AP over images."""

    def __init__(self) -> None:
        self._classes: dict[int, _ClassSums] = defaultdict(_ClassSums)

    def add(self, labels: NDArray[np.uint16], detections: list[CityscapesDetection]) -> None:
        """Add an image. labels: its label image (height, width), see `pipeline.datasets.cityscapes`."""
        counts = np.bincount(labels.ravel())
        values = np.flatnonzero(counts)
        classes = np.where(values < FIRST_INSTANCE, values, values // FIRST_INSTANCE)
        for class_id in CLASSES:
            own = classes == class_id
            truths = _Truths(values[own], counts[values[own]])
            found = [each for each in detections if each.class_id == class_id and not each.mask.is_empty]
            _add(self._classes[class_id], labels, truths, found)

    def by_class(self) -> dict[int, Floats]:
        """Return the AP at each IoU (T,) of every class by its id; NaN for a class without truths."""
        return {class_id: _class_precision(self._classes[class_id]) for class_id in CLASSES}


def _add(sums: _ClassSums, labels: NDArray[np.uint16], truths: _Truths, detections: list[CityscapesDetection]) -> None:
    """Add the truths and the detections of one class in one image."""
    overlaps = np.zeros((len(detections), len(truths.values)), dtype=np.int64)
    void, areas = np.zeros(len(detections), np.int64), np.zeros(len(detections), np.int64)
    for row, detection in enumerate(detections):
        shown = labels[detection.mask.window.in_image][detection.mask.array()]
        counts = np.bincount(shown, minlength=_VALUES)
        areas[row], void[row], overlaps[row] = len(shown), counts[_VOID].sum(), counts[truths.values]
    ious = overlaps / (truths.pixels + areas[:, None] - overlaps)
    scores = np.array([detection.score for detection in detections], dtype=np.float64)
    # A group that is small as well counts twice, as there.
    ignored = void + (overlaps * (truths.groups.astype(int) + truths.small)).sum(axis=1)
    counted = ~truths.groups & ~truths.small
    sums.truths += int(counted.sum())
    sums.detections += len(detections)
    for index, min_iou in enumerate(MIN_IOUS):
        matched = ious > min_iou
        for truth in np.flatnonzero(counted):
            best, *others = sorted(scores[matched[:, truth]].tolist(), reverse=True) or [None]
            if best is None:
                sums.missed[index] += 1
            else:
                sums.right[index].append(best)
                sums.wrong[index] += others
        wrong = ~matched.any(axis=1) & (ignored / areas <= min_iou)
        sums.wrong[index] += scores[wrong].tolist()


def _class_precision(sums: _ClassSums) -> Floats:
    if not sums.truths:
        return np.full(len(MIN_IOUS), np.nan)
    curves = zip(sums.right, sums.wrong, sums.missed, strict=True)
    return np.array([_average_precision(np.array(right), np.array(wrong), missed) for right, wrong, missed in curves])


def _average_precision(right: Floats, wrong: Floats, missed: int) -> float:
    """Return the AP of detections with these scores; 0 without any."""
    scores = np.concatenate([right, wrong])
    if not scores.size:
        return 0.0
    # At each score: detections with at least that, the highest score first.
    thresholds = np.unique(scores)[::-1]
    rights = np.searchsorted(np.sort(-right), -thresholds, side="right")
    shown = np.searchsorted(np.sort(-scores), -thresholds, side="right")
    precision = np.concatenate([[1.0], rights / shown])
    recall = np.concatenate([[0.0], rights / (len(right) + missed)])
    # Each precision counts for half the way to both neighbours; both ends are their own neighbours.
    neighbours = np.concatenate([[0.0], recall, recall[-1:]])
    return float((precision * (neighbours[2:] - neighbours[:-2]) / 2).sum())
