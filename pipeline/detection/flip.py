"""Merges the predictions on an image and on its mirror image."""

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
"""Masks of the same class with at least this IoU belong to one object."""

LONE_SCORE_FACTOR = 0.5
"""An object found in only one of the two images keeps this share of its class score: the mean with a score of 0."""


def mirrored_back(prediction: Prediction, width: int) -> Prediction:
    """Return a prediction on the mirror image as one on the image itself, `width` pixels wide."""
    x0, y0, x1, y1 = prediction.box_xyxy
    return replace(prediction, box_xyxy=(width - x1, y0, width - x0, y1), source=MirroredMask(prediction.source))


def merge(direct: Sequence[Prediction], mirrored: Sequence[Prediction]) -> list[Prediction]:
    """Merge the predictions on an image with those on its mirror image, already mirrored back.

    In the order of class scores, each direct prediction is paired with the free one of its class that overlaps it most.
    A pair has the mean of both class scores, mask scores, boxes and probabilities.
    """
    overlaps = _overlaps(direct, mirrored)
    free = set(range(len(mirrored)))
    merged = []
    for index in sorted(range(len(direct)), key=lambda each: -direct[each].class_score):
        one = direct[index]
        partners = [
            each for each in sorted(free) if mirrored[each].label == one.label and overlaps[index, each] >= MIN_IOU
        ]
        if not partners:
            merged.append(_lone(one))
            continue
        partner = max(partners, key=lambda each: overlaps[index, each])
        free.remove(partner)
        other = mirrored[partner]
        merged.append(
            replace(
                one,
                class_score=(one.class_score + other.class_score) / 2,
                mask_score=(one.mask_score + other.mask_score) / 2,
                box_xyxy=_mean_box(one.box_xyxy, other.box_xyxy),
                source=MeanMask(one.source, other.source),
            )
        )
    return merged + [_lone(mirrored[each]) for each in sorted(free)]


def _mean_box(one: BoxXyxy, other: BoxXyxy) -> BoxXyxy:
    x0, y0, x1, y1 = ((a + b) / 2 for a, b in zip(one, other, strict=True))
    return x0, y0, x1, y1


def _lone(prediction: Prediction) -> Prediction:
    return replace(prediction, class_score=prediction.class_score * LONE_SCORE_FACTOR)


def _overlaps(direct: Sequence[Prediction], mirrored: Sequence[Prediction]) -> NDArray[np.float64]:
    """Return the IoU of each pair of masks, (direct, mirrored)."""
    if not direct or not mirrored:  # painting takes time
        return np.zeros((len(direct), len(mirrored)))
    first, second = ([encode_mask(each.source.paint().mask) for each in side] for side in (direct, mirrored))
    return rle_ious(first, second)
