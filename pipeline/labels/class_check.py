"""What becomes of labels whose class disagrees with that of similar labelled instances."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel
from pipeline.settings import ClassCheckAction


@dataclass(frozen=True)
class ClassCheck:
    """Which labels are doubted, and what is done to them.

    min_agreement: a label is doubted if similar labelled instances agree at least so far on another class.
    """

    action: ClassCheckAction = "off"
    min_agreement: float = 0.0

    def doubts(self, instance: InstanceLabel) -> bool:
        """Return whether the class of an instance is doubted."""
        return (
            instance.class_agreement is not None
            and instance.class_vote != instance.category_id
            and instance.class_agreement >= self.min_agreement
        )

    def applied(self, labels: ImageLabels) -> ImageLabels:
        """Return the labels with doubted instances of the other class (`correct`) or dropped (`drop`)."""
        if self.action not in ("correct", "drop"):
            return labels
        return replace(labels, instances=tuple(map(self._applied, labels.instances)))

    def weight(self, instance: InstanceLabel) -> float:
        """Return the factor of an instance's losses: with `weight`, less the further others agree; else 1."""
        if self.action != "weight" or instance.class_agreement is None or not self.doubts(instance):
            return 1.0
        return 1.0 - instance.class_agreement

    def _applied(self, instance: InstanceLabel) -> InstanceLabel:
        if not self.doubts(instance) or instance.class_vote is None:
            return instance
        if self.action == "drop":
            return replace(instance, decision=Decision.DROPPED)
        return replace(instance, category_id=instance.class_vote)


NO_CHECK: Final = ClassCheck()
"""Doubts no label."""
