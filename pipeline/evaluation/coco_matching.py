"""Matches the detections of an image with its truths as COCO does, for all thresholds and sizes at once.

The rules are those of pycocotools' `COCOeval.evaluateImg`: in the order of scores, each detection gets the free truth
of its class that it overlaps most. If no such truth is left, it may match an ignored one: a crowd, or a truth of
another size. Such a detection is neither right nor wrong. A crowd can match any number of detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Detections:
    """The detections in an image, the best score first; arrays (D,). areas: in square pixels."""

    categories: Ints
    scores: Floats
    areas: Floats


@dataclass(frozen=True)
class Truths:
    """The truths of an image; arrays (G,). areas: in square pixels."""

    categories: Ints
    areas: Floats
    crowds: Bools


@dataclass(frozen=True)
class Matches:
    """Detections that are right and wrong, and truths that count, for A ranges of area and T thresholds of IoU.

    right, wrong: (D, A, T); a detection that is neither is ignored. counted: (A, G).
    """

    right: Bools
    wrong: Bools
    counted: Bools


def match(ious: Floats, detections: Detections, truths: Truths, min_ious: Floats, area_ranges: Floats) -> Matches:
    """Match the detections of an image with its truths.

    ious: (D, G); with a crowd, the share of the detection inside it. min_ious: (T,). area_ranges: (A, 2), the least
    and the largest area, both included.
    """
    ignored = truths.crowds | _outside(truths.areas, area_ranges)
    shape = (len(detections.scores), len(area_ranges), len(min_ious))
    found, ignorable = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    same_class = detections.categories[:, None] == truths.categories[None, :]
    overlaps = np.where(same_class, ious, -1.0).reshape(same_class.shape)
    # No other detection can match at any threshold.
    candidates = np.flatnonzero((overlaps >= min_ious.min()).any(axis=1))
    if candidates.size:
        # The rank of a truth replaces its IoU; of two with the same IoU, pycocotools chooses the later one.
        order = np.argsort(overlaps[candidates], axis=1, kind="stable")
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(order.shape[1])[None, :], axis=1)
        # An ignored truth ranks below every other.
        preference = ranks[:, None, :] + order.shape[1] * ~ignored[None, :, :]
        reached = overlaps[candidates][:, None, :] >= min_ious[None, :, None]
        found[candidates], ignorable[candidates] = _choose(preference, reached, ignored, truths.crowds)
    unmatched = ~found & ~_outside(detections.areas, area_ranges).T[:, :, None]
    return Matches(right=found & ~ignorable, wrong=unmatched, counted=~ignored)


def _choose(preference: Ints, reached: Bools, ignored: Bools, crowds: Bools) -> tuple[Bools, Bools]:
    """Match each detection in turn with the free truth that it prefers.

    preference: (D, A, G), the largest first. reached: (D, T, G). ignored: (A, G). Return whether a detection is
    matched, and whether its truth is ignored, both (D, A, T).
    """
    detections, areas, count = preference.shape
    thresholds = reached.shape[1]
    found = np.zeros((detections, areas, thresholds), np.bool_)
    ignorable = np.zeros_like(found)
    free = np.ones((areas, thresholds, count), np.bool_)
    area_index, threshold_index = np.ogrid[:areas, :thresholds]
    for index in range(detections):
        wanted = np.where(free & reached[index], preference[index][:, None, :], -1)
        choice = wanted.argmax(axis=2)
        taken = wanted[area_index, threshold_index, choice] >= 0
        found[index] = taken
        ignorable[index] = taken & ignored[area_index, choice]
        free[area_index, threshold_index, choice] &= ~taken | crowds[choice]
    return found, ignorable


def _outside(areas: Floats, area_ranges: Floats) -> Bools:
    """Return whether areas (N,) lie outside ranges (A, 2), as (A, N)."""
    outside: Bools = (areas[None, :] < area_ranges[:, :1]) | (areas[None, :] > area_ranges[:, 1:])
    return outside
