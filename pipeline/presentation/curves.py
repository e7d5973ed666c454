"""Thins out and smooths curves of many points for charts."""

from __future__ import annotations

import math
from typing import Final

MOST_POINTS: Final = 300

Point = tuple[float, float]


def thinned(points: list[Point], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """Return at most `most` points, each the mean of equally many neighbours."""
    size = math.ceil(len(points) / most) or 1
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return tuple((sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups)


def smoothed(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Return the running mean over a twelfth of the curve on either side."""
    reach = max(1, len(points) // 12)
    result = []
    for index, (x, _) in enumerate(points):
        window = points[max(0, index - reach) : index + reach + 1]
        result.append((x, sum(y for _, y in window) / len(window)))
    return tuple(result)
