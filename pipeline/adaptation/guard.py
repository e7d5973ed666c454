"""Decide which weights of SAM are used, by masks of images that no training saw."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from pipeline.presentation import words

MOST_LOSS: Final = 0.003
"""Loss of mean IoU that is accepted for teachers of one quality."""


class WhoseWeights(StrEnum):
    """Whose weights a SAM has: those it had before, those fitted to the labels, or the mean of both."""

    SHIPPED = "shipped"
    HALF_WAY = "half-way"
    ADAPTED = "adapted"


CANDIDATES: Final = (WhoseWeights.ADAPTED, WhoseWeights.HALF_WAY)
"""The new weights that may be used; of equally good ones the first."""


class QualityResult(msgspec.Struct, frozen=True):
    """Mean IoU of held-out masks with their truth, for imitated teachers of one quality.

    teacher: of the imitated teacher's masks. refined: of SAM's masks by whose weights it has.
    """

    instances: int
    teacher: float
    refined: dict[str, float]

    def gain(self, candidate: WhoseWeights) -> float:
        """Return the change of the mean IoU from the shipped weights to others."""
        return self.refined[candidate] - self.refined[WhoseWeights.SHIPPED]


def pooled_gain(results: Sequence[QualityResult], candidate: WhoseWeights) -> float:
    """Return the change of the mean IoU over the instances of all qualities."""
    instances = sum(each.instances for each in results)
    return sum(each.instances * each.gain(candidate) for each in results) / instances if instances else 0.0


def is_safe(results: Sequence[QualityResult], candidate: WhoseWeights) -> bool:
    """Return whether weights gain on the whole, and lose no more than `MOST_LOSS` for any quality of teacher."""
    return pooled_gain(results, candidate) > 0 and all(each.gain(candidate) >= -MOST_LOSS for each in results)


def choose_weights(results: Sequence[QualityResult]) -> WhoseWeights:
    """Return the candidate that gains most among those that are safe, else the shipped weights."""
    safe = [each for each in CANDIDATES if is_safe(results, each)]
    return max(safe, key=lambda each: pooled_gain(results, each), default=WhoseWeights.SHIPPED)


def verdict(results: Sequence[QualityResult], candidate: WhoseWeights) -> str:
    """Say what a candidate did on held-out images: `adapted: +2.1 points of mask IoU (+3.0, +2.2, +1.1 …): safe`."""
    each = ", ".join(words.signed(100 * result.gain(candidate), 1) for result in results)
    gain = words.signed(100 * pooled_gain(results, candidate), 1)
    kept = "safe" if is_safe(results, candidate) else "not safe"
    return f"{candidate}: {gain} points of mask IoU ({each} by teacher): {kept}"
