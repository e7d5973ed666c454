"""Notices losses that are no numbers any more, or that run away."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Final

WINDOW: Final = 50
"""Iterations whose mean counts: a single bad batch is no divergence."""
FACTOR: Final = 10.0
"""How many times the lowest such mean the loss may grow to."""


class LossWatch:
    """Looks at every iteration's losses."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._lowest = math.inf

    def problem(self, losses: Mapping[str, float]) -> str:
        """What is wrong with an iteration's losses; empty where nothing is. `loss` is their sum."""
        bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if bad:
            return f"the loss is not a number any more ({_listed(losses)})"
        self._recent.append(losses["loss"])
        if len(self._recent) == WINDOW:
            mean = sum(self._recent) / WINDOW
            self._lowest = min(self._lowest, mean)
            if mean > FACTOR * self._lowest:
                return f"the loss runs away: {mean:.4g} on average, it was {self._lowest:.4g} ({_listed(losses)})"
        return ""


def _listed(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
