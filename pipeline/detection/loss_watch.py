"""Finds losses that are NaN or infinite, and losses that diverge."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Final

WINDOW: Final = 50
"""Number of iterations that the loss is averaged over: one bad batch is no divergence."""
FACTOR: Final = 10.0
"""The mean may grow to this multiple of its lowest value."""


class LossWatch:
    """Checks the losses of every iteration."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._lowest = math.inf

    def problem(self, losses: Mapping[str, float]) -> str:
        """Return what is wrong with the losses of an iteration, or "". `loss` is their sum."""
        if not all(map(math.isfinite, losses.values())):
            return f"the loss is not a finite number ({_listed(losses)})"
        self._recent.append(losses["loss"])
        if len(self._recent) == WINDOW:
            mean = sum(self._recent) / WINDOW
            self._lowest = min(self._lowest, mean)
            if mean > FACTOR * self._lowest:
                return f"the loss diverges: its mean was {self._lowest:.4g} and is {mean:.4g} ({_listed(losses)})"
        return ""


def _listed(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
