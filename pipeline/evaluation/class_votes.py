"""Measures how often similar labelled instances doubt the class of a label, and how often they are right."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.evaluation.results import ClassCheckResult, InstanceChange
from pipeline.labels.class_check import ClassCheck
from pipeline.labels.rows import Decision, ImageLabels


class ClassVotes:
    """Counts of labels by the votes on their class. check: says which labels are doubted."""

    def __init__(self, check: ClassCheck) -> None:
        self._check = check
        self._checked = self._doubted = 0
        self._paired = self._right = 0
        self._doubted_paired = self._doubted_right = self._corrected_right = 0

    def add(self, labels: ImageLabels, pairs: Iterable[InstanceChange]) -> None:
        """Add an image: its refined labels, and those of them that are paired with a truth."""
        checked = [
            each for each in labels.instances if each.class_vote is not None and each.decision is not Decision.DROPPED
        ]
        self._checked += len(checked)
        self._doubted += sum(map(self._check.doubts, checked))
        for pair in pairs:
            instance = labels.instances[pair.position]
            if instance.class_vote is None or instance.decision is Decision.DROPPED:
                continue
            right = instance.category_id == pair.truth_category_id
            self._paired += 1
            self._right += right
            if self._check.doubts(instance):
                self._doubted_paired += 1
                self._doubted_right += right
                self._corrected_right += instance.class_vote == pair.truth_category_id

    def result(self) -> ClassCheckResult | None:
        """Return the figures; None if no class was checked."""
        if not self._checked:
            return None
        undoubted, undoubted_right = self._paired - self._doubted_paired, self._right - self._doubted_right
        return ClassCheckResult(
            checked=self._checked,
            doubted=self._doubted,
            paired=self._paired,
            doubted_paired=self._doubted_paired,
            accuracy=_share(self._right, self._paired),
            accuracy_corrected=_share(undoubted_right + self._corrected_right, self._paired),
            accuracy_without=_share(undoubted_right, undoubted),
        )


def _share(count: int, of: int) -> float | None:
    return count / of if of else None
