"""Rows of labels from a COCO dataset, and the one rule for crowds: no instances, but regions that do not count."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.labels.coco_import import read_detections
from pipeline.labels.dataset_rows import Scores, dataset_rows, without_ignored
from pipeline.labels.rows import Decision, Status
from pipeline.refinement.coco_file import rows_to_refine
from tests.tiny_coco import run_lengths, tiny_coco, write_json

CROWD, EMPTY = 2, 4
"""Annotations: the second of image 1 is a crowd, the first of image 2 has no pixel."""


@pytest.fixture
def dataset(tmp_path) -> CocoDataset:
    tiny = tiny_coco(tmp_path, images=3)
    tiny.content["annotations"][CROWD - 1]["iscrowd"] = 1
    nothing = {"size": [48, 64], "counts": run_lengths(np.zeros((48, 64), dtype=bool))}
    tiny.content["annotations"][EMPTY - 1]["segmentation"] = nothing
    return read_coco(write_json(tiny.annotations, tiny.content))


def test_rows_are_the_annotations(tmp_path):
    tiny = tiny_coco(tmp_path)
    dataset = read_coco(tiny.annotations)
    found = [(row, each) for row in dataset_rows(dataset, {2: Scores(0.25, 0.5)}) for each in row.instances]
    assert len(found) == len(tiny.masks)
    for (row, instance), annotation in zip(found, dataset.annotations, strict=True):
        assert (row.mask(instance) == tiny.masks[annotation.id]).all()
        assert instance.area == tiny.masks[annotation.id].sum()
        assert (instance.category_id, instance.decision) == (annotation.category_id, Decision.TEACHER)
        assert (instance.score, instance.mask_score) == ((0.25, 0.5) if annotation.id == 2 else (1.0, None))


def test_a_crowd_is_a_dropped_instance_and_a_mask_without_a_pixel_is_none(dataset):
    rows = list(dataset_rows(dataset))
    teacher, dropped = Decision.TEACHER, Decision.DROPPED
    assert [[each.decision for each in row.instances] for row in rows] == [
        [teacher, dropped, teacher],
        [teacher] * 2,
        [teacher] * 3,
    ]


def test_every_way_from_a_dataset_to_rows_has_the_same_rule(dataset):
    rows = list(dataset_rows(dataset))
    assert list(read_detections(dataset.path, dataset.images, dataset.categories)) == rows
    assert list(rows_to_refine(dataset, {})) == [without_ignored(row) for row in rows]
    kept = [[each.id for each in dataset.instances(image.id) if each.id != EMPTY] for image in dataset.images]
    assert kept == [[1, 3], [5, 6], [7, 8, 9]]
    assert [len(without_ignored(row).instances) for row in rows] == [len(ids) for ids in kept]


def test_an_image_of_crowds_alone_is_empty_without_them(dataset):
    alone = CocoDataset(dataset.path, dataset.images[:1], dataset.categories, dataset.annotations[1:2])
    (row,) = dataset_rows(alone)
    assert (row.status, len(row.instances)) == (Status.OK, 1)
    assert (without_ignored(row).status, without_ignored(row).instances) == (Status.EMPTY, ())
