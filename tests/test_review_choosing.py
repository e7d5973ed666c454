"""Which instances are most worth a look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_mask
from pipeline.review.choosing import choose
from tests.tiny_labels import HEIGHT, WIDTH, tiny_row, tiny_store


def instance(score: float = 1.0, category_id: int = 3, **measures: object) -> InstanceLabel:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[2:9, 3:12] = True
    label = label_from_mask(mask, category_id, score, Decision.SAM)
    return replace(label, **({"agreement": 0.9, "predicted_iou": 0.9, "gate_confidence": 0.9} | measures))


def image(image_id: int, *instances: InstanceLabel) -> ImageLabels:
    return ImageLabels.of_instances(image_id, f"{image_id}.png", WIDTH, HEIGHT, instances)


def ranked(review) -> list[tuple[int, int]]:
    """Image id and place of every instance of the list, in its order."""
    found = [
        (mark.rank, each.labels.image_id, place)
        for each in review.images
        for place, mark in each.marks.items()
        if mark.rank is not None
    ]
    assert sorted(rank for rank, _, _ in found) == list(range(1, len(found) + 1))
    return [found[1:] for found in sorted(found)]


def test_the_worth_is_the_score_times_the_least_belief(tmp_path):
    rows = [
        image(1, instance(0.5, agreement=0.2), instance(1.0, predicted_iou=0.7)),
        image(2, instance(0.8, gate_confidence=0.25), instance(1.0, predicted_iou=1.4)),
    ]
    review = choose(tiny_store(tmp_path / "s", rows), 10, 10)
    assert ranked(review) == [(2, 0), (1, 0), (1, 1), (2, 1)]
    marks = {(each.labels.image_id, place): mark for each in review.images for place, mark in each.marks.items()}
    expected = {(2, 0): 0.8 * 0.75, (1, 0): 0.5 * 0.8, (1, 1): 0.3, (2, 1): 0.1}
    assert {key: mark.worth for key, mark in marks.items()} == pytest.approx(expected, abs=1e-6)
    assert marks[2, 0].reason == "the gate's confidence is 0.25"
    assert marks[1, 0].reason == "SAM and the teacher agree to 0.20"
    assert marks[1, 1].reason == "SAM expects an IoU of 0.70"


def test_one_image_does_not_fill_the_list(tmp_path):
    rows = [image(1, *[instance(agreement=0.1)] * 5), image(2, instance(agreement=0.5))]
    assert ranked(choose(tiny_store(tmp_path / "s", rows), 5, 2)) == [(1, 0), (1, 1), (2, 0)]


def test_one_class_does_not_fill_the_list_unless_nothing_else_is_there(tmp_path):
    rows = [image(number, instance(agreement=0.1)) for number in range(1, 9)]
    rows.append(image(9, instance(category_id=7, agreement=0.8)))
    store = tiny_store(tmp_path / "s", rows)
    assert ranked(choose(store, 4, 3)) == [(1, 0), (2, 0), (3, 0), (9, 0)]
    assert len(ranked(choose(store, 9, 3))) == 9


def test_dropped_instances_are_marked_whether_in_the_list_or_not(tmp_path):
    dropped = instance(0.4, decision=Decision.DROPPED, agreement=0.05, gate_confidence=0.0)
    review = choose(tiny_store(tmp_path / "s", [image(1, instance(agreement=0.1), dropped)]), 1, 3)
    assert ranked(review) == [(1, 0)]
    mark = review.images[0].marks[1]
    assert (mark.rank, mark.reason) == (None, "dropped: SAM and the teacher agree to 0.05")
    assert mark.worth == pytest.approx(0.4)


def test_failed_images_are_told_apart_and_images_of_nothing_are_not(tmp_path):
    rows = [tiny_row(number) for number in range(30, 50)]  # 34 and 44 failed
    review = choose(tiny_store(tmp_path / "s", rows), 100, 100)
    assert [each.image_id for each in review.failed] == [34, 44]
    assert not {34, 44, 35, 45} & {each.labels.image_id for each in review.images}


def test_the_order_of_the_store_changes_nothing(tmp_path):
    rows = [tiny_row(number) for number in range(10, 40)] + [image(5, instance()), image(4, instance())]
    first = choose(tiny_store(tmp_path / "a", rows), 12, 2)
    second = choose(tiny_store(tmp_path / "b", rows[::-1]), 12, 2)
    assert ranked(first) == ranked(second)
    assert [each.labels.image_id for each in first.images] == [each.labels.image_id for each in second.images]


def test_a_class_that_is_doubted_is_worth_a_look(tmp_path):
    doubted = instance(0.8, 3, class_vote=7, class_agreement=0.75)
    agreed = instance(0.8, 3, class_vote=3, class_agreement=1.0)
    review = choose(tiny_store(tmp_path / "s", [image(1, agreed, doubted, instance(0.8))]), 3, 3)
    assert ranked(review)[0] == (1, 1)
    mark = review.images[0].marks[1]
    assert mark.worth == pytest.approx(0.8 * 0.75)
    assert mark.reason == "0.75 of the votes of similar labelled instances are for Hündin"
    assert review.images[0].marks[0].worth == pytest.approx(0.8 * 0.1)


@pytest.mark.parametrize("measures", [{}, {"gate_confidence": 1.0}], ids=["no measure", "all believed"])
def test_labels_that_nothing_doubts_are_refused(tmp_path, measures):
    unmeasured = {"agreement": None, "predicted_iou": None, "gate_confidence": None}
    store = tiny_store(tmp_path / "s", [image(1, instance(**(unmeasured | measures)))])
    with pytest.raises(StoreError, match="no instance is doubtful.*EXPERIMENT:refine"):
        choose(store, 10, 3)
