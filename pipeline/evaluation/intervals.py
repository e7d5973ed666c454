"""Intervals of AP over draws of the same images: how far the figures of few images can be trusted."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.results import ModelResult

COVERED: Final = (2.5, 97.5)
"""The percentiles at the ends of an interval."""

Interval = tuple[float, float]


def ap_interval(model: ModelResult) -> Interval | None:
    """Return the range that holds the mask AP of 95 % of the draws; None if the images were not redrawn."""
    return _interval(np.array(model.resampled_ap))


def gain_interval(first: ModelResult | None, second: ModelResult | None) -> Interval | None:
    """Return the range that holds the difference of two models' mask AP in 95 % of the draws, which are the same."""
    if first is None or second is None or len(first.resampled_ap) != len(second.resampled_ap):
        return None
    return _interval(np.array(second.resampled_ap) - np.array(first.resampled_ap))


def _interval(values: NDArray[np.float64]) -> Interval | None:
    if not values.size:
        return None
    low, high = np.percentile(values, COVERED).tolist()
    return low, high
