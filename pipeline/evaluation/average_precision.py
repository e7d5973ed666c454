"""Computes COCO's average precision and recall from images that are added one by one.

The figures are those of pycocotools' `COCOeval`. Of an image only ten bytes per detection, its score and its class are
kept, not its masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    """One class: precision at each of COCO's recalls, and the recall reached; NaN without truths.

    precision: (A, T, R). recall: (A, T). truths: number of truths of any size, crowds left out.
    """

    precision: Floats
    recall: Floats
    truths: int


class AveragePrecision:
    """Sums up average precision over images.

    Add images by ascending id: as in pycocotools, of detections with the same score those of the image added first
    rank higher.
    """

    def __init__(self) -> None:
        self._categories: list[Ints] = []
        self._scores: list[Floats] = []
        self._right: list[NDArray[np.uint8]] = []
        self._wrong: list[NDArray[np.uint8]] = []
        self._truths: dict[int, Ints] = {}
        self._detections_of_image: list[int] = []
        self._truths_of_image: list[dict[int, int]] = []

    def add(self, ious: Floats, detections: Detections, truths: Truths) -> None:
        """Add an image. ious: (D, G) of its detections, the best score first, with its truths (see `match`)."""
        matches = match(ious, detections, truths, MIN_IOUS, AREA_RANGES)
        self._categories.append(detections.categories)
        self._scores.append(detections.scores)
        for kept, flags in ((self._right, matches.right), (self._wrong, matches.wrong)):
            kept.append(np.packbits(flags.reshape(-1, _FLAGS), axis=1))
        of_image: dict[int, int] = {}
        for category in np.unique(truths.categories).tolist():
            counted = matches.counted[:, truths.categories == category].sum(axis=1)
            self._truths[category] = self._truths.get(category, 0) + counted
            of_image[category] = int(counted[_ALL])
        self._detections_of_image.append(len(detections.scores))
        self._truths_of_image.append(of_image)

    def by_category(self, category_ids: Sequence[int]) -> dict[int, CategoryScores]:
        """Return the scores of these classes by id."""
        categories, scores, right, wrong = self._joined()
        result: dict[int, CategoryScores] = {}
        for category_id in category_ids:
            own = np.flatnonzero(categories == category_id)
            own = own[np.argsort(-scores[own], kind="stable")]
            truths = self._truths.get(category_id, np.zeros(len(AREA_RANGES), np.int64))
            result[category_id] = _category_scores(_unpacked(right[own]), _unpacked(wrong[own]), truths)
        return result

    def resampled(self, category_ids: Sequence[int], resamples: int) -> Floats:
        """Return the AP over all sizes of images drawn at random with replacement, as many as there are: (resamples,).

        The draws depend on the number of images alone, so that those of two models are of the same images. NaN where
        no drawn image has a truth.
        """
        images = len(self._detections_of_image)
        draws = np.random.default_rng(images).multinomial(images, np.full(images, 1 / images), size=resamples)
        categories, scores, right, wrong = self._joined()
        image_of = np.repeat(np.arange(images), self._detections_of_image)
        by_category = []
        for category_id in category_ids:
            own = np.flatnonzero(categories == category_id)
            own = own[np.argsort(-scores[own], kind="stable")]
            rights, wrongs = (_unpacked(each[own])[: _LANES[1]] for each in (right, wrong))
            truths = np.array([each.get(category_id, 0) for each in self._truths_of_image])
            by_category.append(_drawn_precision(rights, wrongs, image_of[own], truths, draws))
        precision = np.array(by_category).reshape(len(category_ids), resamples)
        known = ~np.isnan(precision)
        total = np.where(known, precision, 0.0).sum(axis=0)
        ap: Floats = np.divide(total, known.sum(axis=0), out=np.full(resamples, np.nan), where=known.any(axis=0))
        return ap

    def best_score(self) -> float:
        """Return the least score of the detections that together have the best F1 at IoU 0.5; 0 if none is right."""
        _, scores, right, wrong = self._joined()
        order = np.argsort(-scores, kind="stable")
        rights, wrongs = (np.cumsum(_unpacked(each[order])[_AT_50]) for each in (right, wrong))
        if not order.size or not rights[-1]:
            return 0.0
        truths = sum(int(each[_ALL]) for each in self._truths.values())
        return float(scores[order][int((2 * rights / (rights + wrongs + truths)).argmax())])

    def _joined(self) -> tuple[Ints, Floats, NDArray[np.uint8], NDArray[np.uint8]]:
        """Return categories, scores and packed flags, right and wrong, of the detections of all images."""
        no_flags = np.zeros((0, -(-_FLAGS // 8)), np.uint8)
        right, wrong = (np.concatenate([no_flags, *kept]) for kept in (self._right, self._wrong))
        categories = np.concatenate([np.zeros(0, np.int64), *self._categories])
        return categories, np.concatenate([np.zeros(0), *self._scores]), right, wrong


def mean_metrics(categories: Iterable[CategoryScores]) -> Metrics:
    """Return COCO's figures averaged over classes; classes without truths are left out, as in COCO."""
    scores = list(categories)
    precision = np.array([each.precision for each in scores]).reshape(-1, *_LANES, len(RECALLS))
    recall = np.array([each.recall for each in scores]).reshape(-1, *_LANES)
    return Metrics(
        ap=_mean(precision[:, _ALL]),
        ap_50=_mean(precision[:, _ALL, _AT_50]),
        ap_75=_mean(precision[:, _ALL, _AT_75]),
        ap_small=_mean(precision[:, _SMALL]),
        ap_medium=_mean(precision[:, _MEDIUM]),
        ap_large=_mean(precision[:, _LARGE]),
        ar=_mean(recall[:, _ALL]),
    )


def _drawn_precision(right: Bools, wrong: Bools, image_of: Ints, truths: Ints, draws: Ints) -> Floats:
    """Return the AP of one class in every draw of images, NaN without truths.

    right, wrong: (T, D), the best score first. image_of: (D,). truths: number in each image. draws: how often each
    image is drawn, (resamples, images).
    """
    result = np.full(len(draws), np.nan)
    for index, (times, count) in enumerate(zip(draws, draws @ truths, strict=True)):
        if count:
            drawn = times[image_of]
            shown = drawn > 0
            precision, _ = _curves(right[:, shown] * drawn[shown], wrong[:, shown] * drawn[shown], [count] * len(right))
            result[index] = precision.mean()
    return result


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _unpacked(packed: NDArray[np.uint8]) -> Bools:
    """Return flags (A * T, D), one row per range of area and threshold, from bytes (D, n)."""
    flags = np.unpackbits(packed, axis=1, count=_FLAGS)
    return np.ascontiguousarray(flags.T).astype(np.bool_)


def _category_scores(right: Bools, wrong: Bools, truths: Ints) -> CategoryScores:
    """Compute the scores from flags (A * T, D), the best score first, and the number of truths by area (A,)."""
    precision, recall = _curves(right, wrong, np.repeat(truths, _LANES[1]).tolist())
    return CategoryScores(precision.reshape(*_LANES, -1), recall.reshape(_LANES), int(truths[_ALL]))


def _curves(right: Bools | Ints, wrong: Bools | Ints, truths: Sequence[int]) -> tuple[Floats, Floats]:
    """Return the precision at each of COCO's recalls (L, R) and the recall reached (L,), NaN without truths.

    right, wrong: how often each detection is right or wrong, (L, D), the best score first. truths: number by lane.
    """
    precision, recall = np.full((len(right), len(RECALLS)), np.nan), np.full(len(right), np.nan)
    rights, wrongs = np.cumsum(right, axis=1, dtype=np.float64), np.cumsum(wrong, axis=1, dtype=np.float64)
    reached = rights / (wrongs + rights + np.spacing(1))
    # Precision at a recall is the best precision at that recall or a higher one.
    reached = np.maximum.accumulate(reached[:, ::-1], axis=1)[:, ::-1]
    for lane, count in enumerate(truths):
        if count:
            recalls = rights[lane] / count
            recall[lane] = recalls[-1] if recalls.size else 0.0
            # A recall that is never reached has the precision 0 that is appended.
            precision[lane] = np.append(reached[lane], 0.0)[np.searchsorted(recalls, RECALLS, side="left")]
    return precision, recall
