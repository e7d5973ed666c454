"""Which detections of an image find which of its truths, as COCO has it, for all thresholds and sizes at once.

The rules are those of pycocotools' `COCOeval.evaluateImg`: the detection with the best score chooses first, and
takes the truth of its own class that it overlaps most, each truth going to one detection. Only where none is
left does it fall to an ignored one, a crowd or a truth of another size: such a detection neither rewards nor
punishes. A crowd may take any number.
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
    """What was found in an image, the best score first; arrays (D,). areas: in square pixels."""

    categories: Ints
    scores: Floats
    areas: Floats


@dataclass(frozen=True)
class Truths:
    """What an image shows; arrays (G,). areas: in square pixels."""

    categories: Ints
    areas: Floats
    crowds: Bools


@dataclass(frozen=True)
class Matches:
    """For A ranges of area and T thresholds of IoU: detections that are right and wrong, truths that count.

    right, wrong: (D, A, T); one that is neither is ignored. counted: (A, G).
    """

    right: Bools
    wrong: Bools
    counted: Bools


def match(ious: Floats, detections: Detections, truths: Truths, min_ious: Floats, area_ranges: Floats) -> Matches:
    """Match the detections of an image with its truths.

    ious: (D, G); of a crowd, the share of the detection that lies in it. min_ious: (T,). area_ranges: (A, 2),
    the least and the largest area, both included.
    """
    ignored = truths.crowds | _outside(truths.areas, area_ranges)
    shape = (len(detections.scores), len(area_ranges), len(min_ious))
    found, ignorable = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    same_class = detections.categories[:, None] == truths.categories[None, :]
    overlaps = np.where(same_class, ious, -1.0).reshape(same_class.shape)
    # No other detection can match at any threshold, nor take a truth away.
    candidates = np.flatnonzero((overlaps >= min_ious.min()).any(axis=1))
    if candidates.size:
        # A truth's rank stands for its IoU; of two with the same IoU, pycocotools takes the later one.
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
    """Let every detection in turn take the free truth it prefers.

    preference: (D, A, G), the largest first. reached: (D, T, G). ignored: (A, G). Gives whether a truth was
    taken and whether that one is ignored, both (D, A, T).
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
    """Say whether areas (N,) lie outside of ranges (A, 2), as (A, N)."""
    outside: Bools = (areas[None, :] < area_ranges[:, :1]) | (areas[None, :] > area_ranges[:, 1:])
    return outside
