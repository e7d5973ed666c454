"""COCO's average precision and recall, summed up from images that come one by one.

The figures are those of pycocotools' `COCOeval`; what is kept of an image is ten bytes a detection beside its
score and class, not its masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.coco_matching import Bools, Detections, Floats, Ints, Truths, match
from pipeline.evaluation.results import Metrics

MIN_IOUS: Final[Floats] = np.linspace(0.5, 0.95, 10, dtype=np.float64)
RECALLS: Final[Floats] = np.linspace(0.0, 1.0, 101, dtype=np.float64)
AREA_RANGES: Final[Floats] = np.array(
    [[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]]  # all, small, medium, large
)
_ALL, _SMALL, _MEDIUM, _LARGE = range(len(AREA_RANGES))
_LANES: Final = (len(AREA_RANGES), len(MIN_IOUS))
_FLAGS: Final = len(AREA_RANGES) * len(MIN_IOUS)
_AT_50, _AT_75 = 0, 5


@dataclass(frozen=True)
class CategoryScores:
    """One class: precision at each of COCO's recalls, and the recall reached; NaN where there is no truth.

    precision: (A, T, R). recall: (A, T). truths: how many there are of any size, crowds left out.
    """

    precision: Floats
    recall: Floats
    truths: int

    def metrics(self) -> Metrics:
        """Return the figures of this class alone."""
        return mean_metrics([self])


class AveragePrecision:
    """Takes matched images, gives average precision.

    Add images by ascending id: of detections with the same score, those of the image added first count as the
    better ones, in pycocotools too.
    """

    def __init__(self) -> None:
        self._categories: list[Ints] = []
        self._scores: list[Floats] = []
        self._right: list[NDArray[np.uint8]] = []
        self._wrong: list[NDArray[np.uint8]] = []
        self._truths: dict[int, Ints] = {}

    def add(self, ious: Floats, detections: Detections, truths: Truths) -> None:
        """Add an image: ious (D, G) of its detections, the best score first, and its truths (see `match`)."""
        matches = match(ious, detections, truths, MIN_IOUS, AREA_RANGES)
        self._categories.append(detections.categories)
        self._scores.append(detections.scores)
        for kept, flags in ((self._right, matches.right), (self._wrong, matches.wrong)):
            kept.append(np.packbits(flags.reshape(-1, _FLAGS), axis=1))
        for category in np.unique(truths.categories).tolist():
            counted = matches.counted[:, truths.categories == category].sum(axis=1)
            self._truths[category] = self._truths.get(category, 0) + counted

    def by_category(self, category_ids: list[int]) -> dict[int, CategoryScores]:
        """Return the scores of these classes."""
        categories = np.concatenate([np.zeros(0, np.int64), *self._categories])
        scores = np.concatenate([np.zeros(0), *self._scores])
        packed_bytes = -(-_FLAGS // 8)
        no_flags = np.zeros((0, packed_bytes), np.uint8)
        right, wrong = (np.concatenate([no_flags, *kept]) for kept in (self._right, self._wrong))
        result: dict[int, CategoryScores] = {}
        for category_id in category_ids:
            own = np.flatnonzero(categories == category_id)
            own = own[np.argsort(-scores[own], kind="stable")]
            truths = self._truths.get(category_id, np.zeros(len(AREA_RANGES), np.int64))
            result[category_id] = _category_scores(_unpacked(right[own]), _unpacked(wrong[own]), truths)
        return result


def mean_metrics(categories: list[CategoryScores]) -> Metrics:
    """Average COCO's figures over classes; those without truth are left out, as in COCO."""
    precision = np.array([each.precision for each in categories]).reshape(-1, *_LANES, len(RECALLS))
    recall = np.array([each.recall for each in categories]).reshape(-1, *_LANES)
    return Metrics(
        ap=_mean(precision[:, _ALL]),
        ap_50=_mean(precision[:, _ALL, _AT_50]),
        ap_75=_mean(precision[:, _ALL, _AT_75]),
        ap_small=_mean(precision[:, _SMALL]),
        ap_medium=_mean(precision[:, _MEDIUM]),
        ap_large=_mean(precision[:, _LARGE]),
        ar=_mean(recall[:, _ALL]),
    )


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _unpacked(packed: NDArray[np.uint8]) -> Bools:
    """Return flags (A * T, D), one row a range of area and threshold, from bytes (D, n)."""
    flags = np.unpackbits(packed, axis=1, count=_FLAGS)
    return np.ascontiguousarray(flags.T).astype(np.bool_)


def _category_scores(right: Bools, wrong: Bools, truths: Ints) -> CategoryScores:
    """Compute the scores from flags (A * T, D), the best score first, and the truths of each range of area (A,)."""
    precision, recall = np.full((len(right), len(RECALLS)), np.nan), np.full(len(right), np.nan)
    rights, wrongs = np.cumsum(right, axis=1, dtype=np.float64), np.cumsum(wrong, axis=1, dtype=np.float64)
    reached = rights / (wrongs + rights + np.spacing(1))
    # Precision at a recall is the best that is had at that recall or a higher one.
    reached = np.maximum.accumulate(reached[:, ::-1], axis=1)[:, ::-1]
    for lane, count in enumerate(np.repeat(truths, _LANES[1]).tolist()):
        if count:
            recalls = rights[lane] / count
            recall[lane] = recalls[-1] if recalls.size else 0.0
            # A recall that is never reached has the precision 0 that stands behind the last.
            precision[lane] = np.append(reached[lane], 0.0)[np.searchsorted(recalls, RECALLS, side="left")]
    return CategoryScores(precision.reshape(*_LANES, -1), recall.reshape(_LANES), int(truths[_ALL]))
