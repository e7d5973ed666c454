"""Thresholds of the class score that are chosen for each class, by how many instances labelled images have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pipeline.coco.model import CocoCategory, CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.labels.class_thresholds import ThresholdRule, above_thresholds, recorded, thresholds_in_words
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import shard_labels, write_above_thresholds, write_label_shard
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, Status
from pipeline.tables.shard_files import divide
from tests.tiny_coco import tiny_coco
from tests.tiny_labels import CATEGORIES, tiny_row

CAT, DOG = (category.id for category in CATEGORIES)


def label(category_id: int, score: float, decision: Decision = Decision.TEACHER) -> InstanceLabel:
    return InstanceLabel(category_id, score, (0.0, 0.0, 1.0, 1.0), b"0", 1, decision)


def row(image_id: int, *instances: InstanceLabel) -> ImageLabels:
    return ImageLabels.of_instances(image_id, f"{image_id}.png", 50, 40, instances)


def rule(lowest: float = 0.3, highest: float = 0.95, **per_image: float) -> ThresholdRule:
    return ThresholdRule({CAT: per_image.get("cat", 0.0), DOG: per_image.get("dog", 0.0)}, lowest, highest)


ROWS = [
    row(1, label(CAT, 0.9), label(CAT, 0.5), label(DOG, 0.45)),
    row(2, label(CAT, 0.8), label(DOG, 0.4), label(DOG, 0.35)),
]


def test_the_threshold_is_the_score_from_which_on_images_have_as_many():
    assert rule(cat=1, dog=1).thresholds(ROWS, CATEGORIES) == {CAT: 0.8, DOG: 0.4}
    assert rule(cat=1.5, dog=0.5).thresholds(ROWS, CATEGORIES) == {CAT: 0.5, DOG: 0.45}


def test_thresholds_stay_within_their_bounds():
    assert rule(cat=9, dog=9).thresholds(ROWS, CATEGORIES) == {CAT: 0.3, DOG: 0.3}  # there are not so many
    assert rule(0.6, 0.7, cat=0.5, dog=1).thresholds(ROWS, CATEGORIES) == {CAT: 0.7, DOG: 0.6}
    assert rule().thresholds(ROWS, CATEGORIES) == {CAT: 0.95, DOG: 0.95}  # no labelled image has any
    assert rule(cat=1).thresholds([], CATEGORIES) == {CAT: 0.95, DOG: 0.95}
    assert ThresholdRule({}, 0.3, 0.95).thresholds(ROWS, CATEGORIES) == {CAT: 0.95, DOG: 0.95}


def test_neither_failed_images_nor_dropped_instances_count():
    failed = ImageLabels.of_failure(3, "3.png", "cut off")
    crowd = row(4, label(CAT, 1.0, Decision.DROPPED))
    assert rule(cat=1).thresholds([*ROWS, failed], CATEGORIES)[CAT] == 0.8
    assert rule(cat=0.7).thresholds([*ROWS, crowd], CATEGORIES)[CAT] == 0.8  # 2 in 3 images, and the crowd is none


def test_instances_below_the_threshold_of_their_class_go():
    kept = above_thresholds(ROWS[0], {CAT: 0.9, DOG: 0.4})
    assert [(each.category_id, each.score) for each in kept.instances] == [(CAT, 0.9), (DOG, 0.45)]
    assert above_thresholds(ROWS[1], {CAT: 0.9, DOG: 0.5}) == replace(ROWS[1], instances=(), status=Status.EMPTY)
    failed = ImageLabels.of_failure(3, "3.png", "cut off")
    assert above_thresholds(failed, {CAT: 0.9, DOG: 0.5}) == failed
    crowd = row(4, label(CAT, 0.0, Decision.DROPPED))
    assert above_thresholds(crowd, {CAT: 0.9, DOG: 0.5}) == crowd


def test_the_rule_counts_the_instances_of_labelled_images(tmp_path):
    labelled = read_coco(tiny_coco(tmp_path, images=4).annotations)
    crowds = tuple(
        msgspec.structs.replace(each, iscrowd=int(index == 0)) for index, each in enumerate(labelled.annotations)
    )
    made = ThresholdRule.of_labelled(replace(labelled, annotations=crowds), 0.2, 0.9)
    for category in labelled.categories:
        count = sum(each.category_id == category.id and not each.iscrowd for each in crowds)
        assert made.instances_per_image.get(category.id, 0) == count / 4
    assert (made.lowest, made.highest) == (0.2, 0.9)
    assert ThresholdRule.of_labelled(CocoDataset(Path(), (), (), ()), 0.2, 0.9).instances_per_image == {}


def test_a_store_is_the_same_whatever_its_shards_and_records_the_thresholds(tmp_path):
    digests = set()
    rows = [tiny_row(image_id) for image_id in range(30)]
    for size in (4, 30):
        plan, shards = divide(range(30), size), tmp_path / f"shards{size}"
        for index, ids in enumerate(plan):
            write_label_shard(shards, index, [rows[image_id] for image_id in ids])
        made = rule(0.0, 1.0, cat=0.5, dog=0.4)
        path = tmp_path / f"{size}.zarr"
        attributes = write_above_thresholds(
            lambda plan=plan, shards=shards: shard_labels(shards, plan), made, path, CATEGORIES, {"made by": "test"}
        )
        digests.add(attributes.digest)
    assert len(digests) == 1
    store = LabelStore.open(path)
    thresholds = made.thresholds(rows, CATEGORIES)
    assert store.attributes.provenance == {"made by": "test", **recorded(thresholds)}
    assert list(store) == [above_thresholds(each, thresholds) for each in rows]
    assert store.instances < sum(len(each.instances) for each in rows)


def test_thresholds_are_told_by_name_and_of_many_classes_the_range():
    thresholds = recorded({CAT: 0.5, DOG: 0.756})
    assert thresholds_in_words(thresholds, CATEGORIES) == "cat 0.50, Hündin 0.76"
    assert thresholds_in_words({}, CATEGORIES) == ""
    many = [CocoCategory(number, f"class {number}") for number in range(13)]
    told = thresholds_in_words(recorded({each.id: each.id / 20 for each in many}), many)
    assert told == "13 classes from 0.00 to 0.60, the median 0.30"


@pytest.mark.parametrize("per_image", [0.5, 2.0])
def test_ties_stay_together(per_image):
    same = [row(number, label(CAT, 0.7)) for number in range(4)]
    threshold = rule(cat=per_image).thresholds(same, CATEGORIES)[CAT]
    kept = [above_thresholds(each, {CAT: threshold, DOG: 1.0}) for each in same]
    assert sum(len(each.instances) for each in kept) == 4
