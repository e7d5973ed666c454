"""Keeps the instances that refinement improved and harmed most."""

from __future__ import annotations

from typing import Final

from pipeline.evaluation.results import InstanceChange

KEPT: Final = 200
"""Number of improved and of harmed instances that are kept."""

_PRUNED_AT: Final = 10 * KEPT


class LargestChanges:
    """Keeps those paired instances of all images whose mask IoU changed most."""

    def __init__(self) -> None:
        self._changes: list[InstanceChange] = []

    def add(self, change: InstanceChange) -> None:
        """Add an instance."""
        if change.iou_before != change.iou_after:
            self._changes.append(change)
        if len(self._changes) == _PRUNED_AT:
            self._changes = [*self.improved(), *self.harmed()]

    def improved(self) -> tuple[InstanceChange, ...]:
        """Return the instances whose IoU rose, the largest rise first."""
        return tuple(sorted((each for each in self._changes if each.iou_after > each.iou_before), key=_order)[:KEPT])

    def harmed(self) -> tuple[InstanceChange, ...]:
        """Return the instances whose IoU fell, the largest fall first."""
        return tuple(sorted((each for each in self._changes if each.iou_after < each.iou_before), key=_order)[:KEPT])


def _order(change: InstanceChange) -> tuple[float, int, int]:
    return -abs(change.iou_after - change.iou_before), change.image_id, change.position
