"""How well similarity maps tell an anchor's own instance from everything else, measured by the labels.

A position is inside where at least half of its cell belongs to the anchor's instance, as its truth map says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.structure.target_columns import LEVELS

HALF: Final = round(0.75 * LEVELS)
"""The quantised value of a truth map where half of a cell belongs to the instance: 0.5 on a scale of -1 to 1."""

TARGETS_AREA: Final = "area under curve"
EMBEDDING_AREA: Final = "area under curve without prompts"
FEATURES_AREA: Final = "area under curve of features"
"""Names of figures of `distill`, of its targets and of SAM's embedding, and of `train-teacher`, of its own features."""


@dataclass(frozen=True)
class Separation:
    """Means over anchors.

    area_under_curve: the probability that a position inside is more similar than one outside; 0.5 is chance.
    inside, outside: mean similarity, -1 to 1. anchors: the number of anchors measured.
    """

    area_under_curve: float
    inside: float
    outside: float
    anchors: int


def separation(maps: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Separation | None:
    """Measure quantised maps (A, side, side) by the truth maps of the same anchors, all of which lie in instances.

    Leave out anchors whose maps show one side alone, inside or outside. None where no anchor is left.
    """
    levels = np.arange(LEVELS + 1)
    areas, insides, outsides = [], [], []
    for values, own in zip(maps, truth >= HALF, strict=True):
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
    """Return the means over all anchors of several parts, such as images; None where no anchor was measured."""
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
