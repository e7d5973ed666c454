"""Predicting twice, on an image and on its mirror image, and merging the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.detection.painted_masks import MeanMask, MirroredMask, Prediction
from pipeline.masks.overlap import rle_ious
from pipeline.masks.run_lengths import encode_mask
from pipeline.masks.windows import BoxXyxy

MIN_IOU = 0.5
"""Two masks of the same class that overlap so much are one object's."""

LONE_SCORE_FACTOR = 0.5
"""What is seen in one of two images only keeps this share of its score: the mean with a score of 0."""


def mirrored_back(prediction: Prediction, width: int) -> Prediction:
    """A prediction on the mirror image of an image of some width, as one on the image itself."""
    x0, y0, x1, y1 = prediction.box_xyxy
    return replace(prediction, box_xyxy=(width - x1, y0, width - x0, y1), source=MirroredMask(prediction.source))


def merge(direct: Sequence[Prediction], mirrored: Sequence[Prediction]) -> list[Prediction]:
    """Both predictions on an image, merged; those on its mirror image have been mirrored back.

    The best by score chooses first, among those of its class that overlap it enough, the one that does most.
    Pairs have the mean score, box and probability of both.
    """
    overlaps = _overlaps(direct, mirrored)
    free = set(range(len(mirrored)))
    merged = []
    for index in sorted(range(len(direct)), key=lambda each: -direct[each].score):
        one = direct[index]
        partners = [
            other for other in sorted(free) if mirrored[other].label == one.label and overlaps[index, other] >= MIN_IOU
        ]
        if not partners:
            merged.append(_lone(one))
            continue
        partner = max(partners, key=lambda other: overlaps[index, other])
        free.remove(partner)
        merged.append(_pair(one, mirrored[partner]))
    return merged + [_lone(mirrored[other]) for other in sorted(free)]


def _pair(one: Prediction, other: Prediction) -> Prediction:
    return replace(
        one,
        score=(one.score + other.score) / 2,
        box_xyxy=_mean_box(one.box_xyxy, other.box_xyxy),
        source=MeanMask(one.source, other.source),
    )


def _mean_box(one: BoxXyxy, other: BoxXyxy) -> BoxXyxy:
    x0, y0, x1, y1 = ((a + b) / 2 for a, b in zip(one, other, strict=True))
    return x0, y0, x1, y1


def _lone(prediction: Prediction) -> Prediction:
    return replace(prediction, score=prediction.score * LONE_SCORE_FACTOR)


def _overlaps(direct: Sequence[Prediction], mirrored: Sequence[Prediction]) -> NDArray[np.float64]:
    """Return the IoU of each pair of masks, (direct, mirrored)."""
    if not direct or not mirrored:  # painting takes time
        return np.zeros((len(direct), len(mirrored)))
    first, second = ([encode_mask(each.source.paint().mask) for each in side] for side in (direct, mirrored))
    return rle_ious(first, second)
