"""How well similarity maps tell an anchor's own instance from all the rest, by the labels.

A position counts as inside where at least half of its cell belongs to the anchor's instance. Only anchors within
instances count, and only those whose maps show both sides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.structure.target_columns import LEVELS

HALF = (LEVELS + 1) * 3 // 4
"""The least quantised value of a truth map where half of a cell belongs to the instance: 0.5 on a scale of -1 to 1."""


@dataclass(frozen=True)
class Separation:
    """Means over anchors.

    area_under_curve: the probability that a position inside is more similar than one outside; 0.5 is chance.
    inside, outside: mean similarity, -1 to 1. anchors: how many were measured.
    """

    area_under_curve: float
    inside: float
    outside: float
    anchors: int


def separation(maps: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Separation | None:
    """Measure quantised maps (A, side, side) by truth maps of the same anchors; None where none can be."""
    levels = np.arange(LEVELS + 1)
    areas, insides, outsides = [], [], []
    for values, own in zip(maps.reshape(len(maps), -1), truth.reshape(len(truth), -1) >= HALF, strict=True):
        inside, outside = (np.bincount(part, minlength=LEVELS + 1) for part in (values[own], values[~own]))
        if not inside.sum() or not outside.sum():
            continue
        below = np.cumsum(outside) - outside
        areas.append((inside * (below + outside / 2)).sum() / (inside.sum() * outside.sum()))
        insides.append((inside * levels).sum() / inside.sum())
        outsides.append((outside * levels).sum() / outside.sum())
    if not areas:
        return None
    similar, different = (float(np.mean(each)) * 2 / LEVELS - 1 for each in (insides, outsides))
    return Separation(float(np.mean(areas)), similar, different, len(areas))


def pooled(parts: Iterable[Separation | None]) -> Separation | None:
    """Return the means over the anchors of several images; None where none was measured."""
    measured = [part for part in parts if part is not None]
    anchors = sum(part.anchors for part in measured)
    if not anchors:
        return None

    def mean(values: Iterable[float]) -> float:
        return sum(value * part.anchors for value, part in zip(values, measured, strict=True)) / anchors

    return Separation(
        mean(part.area_under_curve for part in measured),
        mean(part.inside for part in measured),
        mean(part.outside for part in measured),
        anchors,
    )
