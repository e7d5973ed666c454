"""What differs between two stores, counted on masks whose overlaps are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.errors import StoreError
from pipeline.labels.diff import diff, diff_table, match_instances
from pipeline.labels.label_store import LabelStore
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_mask
from tests.tiny_labels import random_mask, tiny_row, tiny_store

SAM, TEACHER, DROPPED = Decision.SAM, Decision.TEACHER, Decision.DROPPED


def box_label(left: int, top: int, right: int, bottom: int, decision: Decision, category_id: int = 3) -> InstanceLabel:
    mask = np.zeros((40, 50), dtype=bool)
    mask[top:bottom, left:right] = True
    return label_from_mask(mask, category_id, 0.5, decision)


def row(image_id: int, *instances: InstanceLabel) -> ImageLabels:
    return ImageLabels.of_instances(image_id, f"{image_id}.jpg", 50, 40, instances)


def test_a_difference_is_counted_by_kind(tmp_path):
    teacher = [
        row(1, box_label(0, 0, 10, 10, TEACHER), box_label(20, 0, 30, 10, TEACHER), box_label(0, 20, 9, 29, TEACHER)),
        row(2, box_label(0, 0, 10, 10, TEACHER)),
        row(3),
        row(4),
    ]
    refined = [
        ImageLabels.of_failure(2, "2.jpg", "unreadable"),
        row(
            1,
            box_label(0, 20, 9, 29, DROPPED),  # the same mask, dropped
            box_label(0, 0, 10, 8, SAM),  # IoU 0.8
            box_label(20, 0, 30, 10, SAM, category_id=7),  # another category: another object
        ),
        row(3, box_label(5, 5, 9, 9, SAM)),
        row(5),
    ]
    stores = [tiny_store(tmp_path / f"{name}.zarr", rows) for name, rows in (("a", teacher), ("b", refined))]
    difference = diff(*stores)
    assert (difference.images, difference.only_first, difference.only_second) == (3, 1, 1)
    assert difference.statuses == {("ok", "failed"): 1, ("empty", "ok"): 1}
    assert (difference.matched, difference.added, difference.removed, difference.dropped) == (2, 2, 2, 1)
    assert difference.decisions == {("teacher", "dropped"): 1, ("teacher", "sam"): 1}
    assert difference.iou_counts == [0, 0, 0, 0, 1, 0, 0, 1]
    assert difference.mean_iou == pytest.approx(0.9)
    table = diff_table(difference, ("teacher", "refined"))
    assert (difference.scores.pairs, difference.scores.mean, difference.mask_scores.pairs) == (2, 0, 0)
    for line in ("images only in refined 1", "teacher -> sam 1", "mean IoU of matched 0.9000", "IoU identical 1 50.0%"):
        assert line in [" ".join(each.split()) for each in table.splitlines()]


def test_class_and_mask_scores_are_compared_apart(tmp_path):
    label = box_label(0, 0, 10, 10, TEACHER)
    other = box_label(20, 0, 30, 10, TEACHER)
    first = row(1, replace(label, mask_score=0.5), other)
    second = row(1, replace(label, score=0.25, mask_score=0.875), replace(other, mask_score=0.25))
    difference = diff(tiny_store(tmp_path / "a.zarr", [first]), tiny_store(tmp_path / "b.zarr", [second]))
    assert (difference.scores.pairs, difference.scores.mean) == (2, 0.125)
    assert (difference.mask_scores.pairs, difference.mask_scores.mean) == (1, 0.375)
    table = [" ".join(each.split()) for each in diff_table(difference).splitlines()]
    assert {"mean change of score 0.1250", "of mask score 0.3750"} <= set(table)


def test_a_store_does_not_differ_from_itself(tmp_path):
    store = tiny_store(tmp_path / "a.zarr", [tiny_row(image_id) for image_id in range(30)])
    difference = diff(store, store)
    assert difference.matched == store.attributes.instances == difference.iou_counts[-1]
    assert (difference.added, difference.removed, difference.dropped, difference.mean_iou) == (0, 0, 0, 1.0)


def test_stores_without_instances_have_no_mean(tmp_path):
    store = tiny_store(tmp_path / "a.zarr", [row(1)])
    assert math.isnan(diff(store, store).mean_iou)
    assert "nan" in diff_table(diff(store, store))


def test_the_most_alike_are_matched_each_once():
    rng = np.random.default_rng(0)
    first, second = (
        row(1, *(label_from_mask(random_mask(rng), int(rng.integers(2)), 0.5, SAM) for _ in range(count)))
        for count in (300, 280)
    )
    pairs = list(match_instances(first, second))
    ious = [iou for _, _, iou in pairs]
    assert ious == sorted(ious, reverse=True)
    assert len({index for index, _, _ in pairs}) == len({index for _, index, _ in pairs}) == len(pairs) > 100
    for index, other, iou in pairs:
        ours, theirs = first.instances[index], second.instances[other]
        assert ours.category_id == theirs.category_id
        assert coco_mask.iou([first.rle(ours)], [second.rle(theirs)], [0])[0, 0] == iou >= 0.1


@pytest.mark.parametrize("change", [{"file_name": "other.jpg"}, {"width": 40, "height": 50}])
def test_stores_of_different_data_are_refused(tmp_path, change):
    ours = row(1, box_label(0, 0, 10, 10, SAM))
    theirs = replace(ours, **change)
    stores = [tiny_store(tmp_path / f"{name}.zarr", [labels]) for name, labels in (("a", ours), ("b", theirs))]
    with pytest.raises(StoreError, match=r"image 1 is '1\.jpg' of 50x40 in .*the stores are of different data sets"):
        diff(*stores)


@pytest.mark.parametrize(
    ("first_ids", "second_ids", "alone"),
    [
        (range(1, 200), range(1, 200), 0),
        (range(1, 200, 2), range(1, 200), 0),
        (range(1, 200), range(1, 200, 3), 0),
        ([*range(1, 50), *range(100, 150)], range(30, 120), 0),
        ([5, 1, 4, 2, 3, 6, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9], 4),
        ([1, 2, 3], [3, 2, 1], 2),
        ([1, 2], [], 0),
        ([], [1, 2], 0),
    ],
)
def test_images_in_one_order_are_read_side_by_side(tmp_path, monkeypatch, first_ids, second_ids, alone):
    stores = [
        tiny_store(tmp_path / f"{name}.zarr", [row(each, box_label(0, 0, 10, 10, SAM)) for each in ids])
        for name, ids in (("a", first_ids), ("b", second_ids))
    ]
    read_alone: list[int] = []
    one = LabelStore.__getitem__
    monkeypatch.setattr(LabelStore, "__getitem__", lambda self, place: read_alone.append(place) or one(self, place))
    difference = diff(*stores)
    both = set(first_ids) & set(second_ids)
    assert (difference.images, difference.matched) == (len(both), len(both))
    assert difference.only_first == len(set(first_ids) - both)
    assert difference.only_second == len(set(second_ids) - both)
    assert len(read_alone) == alone
