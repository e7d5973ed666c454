"""What becomes of labels whose class similar labelled instances doubt, and how often these are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.class_votes import ClassVotes
from pipeline.evaluation.results import ClassCheckResult, InstanceChange
from pipeline.labels.class_check import NO_CHECK, ClassCheck
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_mask
from pipeline.report.sections import _doubted
from tests.tiny_labels import tiny_store


def label(category_id: int, vote: int | None = None, agreement: float | None = None, **fields) -> InstanceLabel:
    made = label_from_mask(np.ones((40, 50), bool), category_id, 0.5, Decision.SAM)
    return replace(made, class_vote=vote, class_agreement=agreement, **fields)


def row(*instances: InstanceLabel) -> ImageLabels:
    return ImageLabels.of_instances(1, "1.png", 50, 40, instances)


LABELS = row(label(3, 3, 1.0), label(3, 7, 0.75), label(3, 7, 0.5), label(7), label(7, 3, 1.0))


@pytest.mark.parametrize(
    ("action", "categories", "dropped", "weights"),
    [
        ("off", [3, 3, 3, 7, 7], [], [1, 1, 1, 1, 1]),
        ("flag", [3, 3, 3, 7, 7], [], [1, 1, 1, 1, 1]),
        ("weight", [3, 3, 3, 7, 7], [], [1, 0.25, 1, 1, 0]),
        ("correct", [3, 7, 3, 7, 3], [], [1, 1, 1, 1, 1]),
        ("drop", [3, 3, 3, 7, 7], [1, 4], [1, 1, 1, 1, 1]),
    ],
)
def test_only_doubted_labels_are_changed_and_twice_as_once(action, categories, dropped, weights):
    check = ClassCheck(action, 0.7)
    made = check.applied(LABELS)
    assert [each.category_id for each in made.instances] == categories
    assert [index for index, each in enumerate(made.instances) if each.decision is Decision.DROPPED] == dropped
    assert [check.weight(each) for each in LABELS.instances] == weights
    assert check.applied(made) == made
    assert [each.rle_counts for each in made.instances] == [each.rle_counts for each in LABELS.instances]


def test_nothing_is_doubted_without_votes():
    assert not any(map(ClassCheck("drop", 0.0).doubts, row(label(3), label(7)).instances))
    assert NO_CHECK.applied(LABELS) is LABELS


def change(position: int, truth_category_id: int) -> InstanceChange:
    return InstanceChange(
        1, "1.png", position, 0, 1, truth_category_id, 0.5, Decision.SAM, (0, 0, 1, 1), 0.9, 0.9, None, None
    )


def test_votes_are_measured_against_the_truth():
    dropped = label(3, 7, 1.0, decision=Decision.DROPPED)
    labels = replace(LABELS, instances=(*LABELS.instances, label(7, 3, 0.9), dropped))
    votes = ClassVotes(ClassCheck("flag", 0.7))
    # Right, rightly doubted, not doubted and wrong, never voted on, wrongly doubted; the sixth has no truth.
    votes.add(labels, [change(0, 3), change(1, 7), change(2, 7), change(3, 7), change(4, 7), change(6, 3)])
    assert votes.result() == ClassCheckResult(
        checked=5,
        doubted=3,
        paired=4,
        doubted_paired=2,
        accuracy=0.5,
        accuracy_corrected=0.5,
        accuracy_without=0.5,
    )
    votes.add(labels, [change(1, 7)])
    result = votes.result()
    assert result is not None
    assert (result.accuracy, result.accuracy_corrected) == (2 / 5, 3 / 5)


def test_labels_without_votes_have_no_figures():
    votes = ClassVotes(ClassCheck("flag", 0.7))
    votes.add(row(label(3), label(7)), [change(0, 3)])
    assert votes.result() is None


def test_the_store_knows_the_doubts_of_all_its_labels(tmp_path):
    store = tiny_store(tmp_path / "labels.zarr", [LABELS])
    doubts = store.class_doubts().tolist()
    assert [each if each == each else None for each in doubts] == [None, 0.75, 0.5, None, 1.0]


class Measured:
    def __init__(self, class_check: ClassCheckResult | None) -> None:
        self.class_check = class_check


def test_the_report_says_how_many_are_doubted_and_how_right_that_is():
    told = _doubted(Measured(ClassCheckResult(300, 12, 100, 10, 0.88, 0.93, 0.95)))  # type: ignore[arg-type]
    assert told == (
        " Similar labelled instances doubt the class of 12 of 300 labels. The right class have 88.0 % as they are, "
        "93.0 % with the doubted ones corrected, 95.0 % of the others."
    )
    assert _doubted(Measured(None)) == ""  # type: ignore[arg-type]
    alone = _doubted(Measured(ClassCheckResult(1, 1, 0, 0, None, None, None)))  # type: ignore[arg-type]
    assert alone == " Similar labelled instances doubt the class of 1 of 1 label."
