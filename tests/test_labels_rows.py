"""Rows: masks to labels and back, soft masks, and what is refused before it is stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.labels.checking import row_problems
from pipeline.labels.label_columns import columns_from_labels, labels_from_columns
from pipeline.labels.rows import Decision, ImageLabels, Status, label_from_mask
from pipeline.masks.soft_masks import SOFT_MASK_SIDE, SoftMask, make_soft_mask, paint_soft_mask
from tests.tiny_labels import HARD_NAMES, random_mask, tiny_instance, tiny_row


def test_a_label_has_the_box_and_the_area_of_its_mask():
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:9, 10:30] = True
    mask[7, 10] = False
    label = label_from_mask(mask, 3, 0.5, Decision.SAM)
    assert label.box_xyxy == (10, 5, 30, 9)
    assert label.area == mask.sum()
    labels = ImageLabels.of_instances(1, "a.jpg", 40, 30, (label,))
    assert np.array_equal(labels.mask(label), mask)


@pytest.mark.parametrize(
    ("height", "width", "box_xyxy"),
    [
        (200, 300, (100.0, 60.0, 180.0, 150.0)),  # shrinks both ways
        (40, 50, (10.0, 10.0, 30.0, 25.0)),  # grows both ways
        (300, 40, (15.0, 5.0, 22.0, 290.0)),  # one of each
        (40, 50, (-20.0, -10.0, 20.0, 18.0)),  # reaches beyond the image
        (1, 1, (0.0, 0.0, 1.0, 1.0)),
    ],
)
def test_a_painted_soft_mask_is_the_map_it_was_made_from(height, width, box_xyxy):
    x0, y0, x1, y1 = box_xyxy
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    distance = np.hypot((xs - (x0 + x1) / 2) / (x1 - x0), (ys - (y0 + y1) / 2) / (y1 - y0))
    probability = np.clip(1.2 - 2 * distance, 0, 1).astype(np.float32)
    painted = paint_soft_mask(make_soft_mask(probability, box_xyxy), width, height)
    assert painted.shape == probability.shape
    assert np.abs(painted - probability).max() < 0.06
    assert np.abs(painted - probability).mean() < 0.01


def test_a_crop_of_the_size_of_the_grid_is_kept_but_for_rounding():
    probability = np.random.default_rng(0).uniform(size=(64, 64)).astype(np.float32)
    soft_mask = make_soft_mask(probability, (0.0, 0.0, 64.0, 64.0))
    assert soft_mask.crop_box_xyxy == (0, 0, 64, 64)
    assert (
        np.abs(paint_soft_mask(soft_mask, 64, 64) - probability).max() <= 0.004
    )  # half a step of the codes, at a logit of 1


def test_a_soft_mask_is_zero_outside_of_its_crop():
    soft_mask = make_soft_mask(np.ones((100, 100), dtype=np.float32), (40.0, 40.0, 60.0, 60.0))
    painted = paint_soft_mask(soft_mask, 100, 100)
    x0, y0, x1, y1 = soft_mask.crop_box_xyxy
    assert (x0, y0, x1, y1) == (35, 35, 65, 65)
    assert painted[y0:y1, x0:x1].min() == 1
    assert painted.sum() == (x1 - x0) * (y1 - y0)


def test_soft_masks_are_equal_by_content():
    first, second = (make_soft_mask(np.eye(20, dtype=np.float32), (3.0, 3.0, 9.0, 9.0)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != replace(first, crop_box_xyxy=(0, 0, 1, 1))
    assert first != replace(first, codes=255 - first.codes)


@pytest.mark.parametrize("images", [0, 1, 30])
def test_rows_come_back_from_columns(images):
    rows = [tiny_row(image_id) for image_id in range(images)]
    assert labels_from_columns(columns_from_labels(rows)) == rows


def test_the_rows_of_these_tests_are_of_every_kind():
    rows = [tiny_row(image_id) for image_id in range(30)]
    instances = [instance for row in rows for instance in row.instances]
    assert {row.status for row in rows} == set(Status)
    assert {instance.decision for instance in instances} == set(Decision)
    assert {instance.soft_mask is None for instance in instances} == {True, False}
    assert {instance.mask_score is None for instance in instances} == {True, False}
    assert {instance.candidate is None for instance in instances} == {True, False}
    assert {row.file_name for row in rows} >= set(HARD_NAMES)
    assert row_problems(rows) == []


def test_a_mask_of_one_pixel_and_an_image_of_300_instances_are_stored():
    rng = np.random.default_rng(0)
    dot = np.zeros((40, 50), dtype=bool)
    dot[39, 49] = True
    crowded = tuple(label_from_mask(random_mask(rng), 3, 0.5, Decision.SAM) for _ in range(299))
    row = ImageLabels.of_instances(1, "a.jpg", 50, 40, (*crowded, label_from_mask(dot, 3, 0.5, Decision.SAM)))
    assert row_problems([row]) == []
    (back,) = labels_from_columns(columns_from_labels([row]))
    assert back == row
    assert np.array_equal(back.mask(back.instances[299]), dot)


BAD_INSTANCES = {
    "category_id: does not fit into 64 bits": {"category_id": 2**63},
    "score: is nan, not a confidence between 0 and 1": {"score": float("nan")},
    "score: is 1.5, not a confidence between 0 and 1": {"score": 1.5},
    "mask_score: is nan, not between 0 and 1; None if it is not known": {"mask_score": float("nan")},
    "mask_score: is -0.5, not between 0 and 1; None if it is not known": {"mask_score": -0.5},
    "box_xyxy: is (0.0, inf, 1.0, inf), not left, top, right, bottom": {"box_xyxy": (0.0, np.inf, 1.0, np.inf)},
    "box_xyxy: is (5, 0, 1, 1), not left, top, right, bottom": {"box_xyxy": (5, 0, 1, 1)},
    "agreement: is nan; a measure that does not apply is None": {"agreement": float("nan")},
    "candidate: is 128": {"candidate": 128},
    "class_vote: is 3 with a class_agreement of None": {"class_vote": 3, "class_agreement": None},
    "class_vote: does not fit into 64 bits": {"class_vote": 2**63, "class_agreement": 0.5},
    "class_agreement: is 1.5, not between 0 and 1; None if it does not apply": {
        "class_vote": 3,
        "class_agreement": 1.5,
    },
    "uncertain_counts: is not ASCII": {"uncertain_counts": b"\xff"},
    "gate_confidence: is 1.5, not between 0 and 1; None if it does not apply": {"gate_confidence": 1.5},
    "gate_confidence: is nan, not between 0 and 1; None if it does not apply": {"gate_confidence": float("nan")},
    "area: is 1, the mask has 6 pixels": {"area": 1},
    "rle_counts: is not the text of a compressed RLE": {"rle_counts": b""},
    "rle_counts: is not ASCII": {"rle_counts": b"\xff\xff"},
    "rle_counts: adds up to 2500 pixels, the image has 2000": {
        "rle_counts": coco_mask.encode(np.zeros((50, 50), dtype=np.uint8, order="F"))["counts"]
    },
    "soft_mask.crop_box_xyxy: is (0, 0, 51, 5) in an image of 50x40": {
        "soft_mask": SoftMask((0, 0, 51, 5), np.zeros((SOFT_MASK_SIDE,) * 2, dtype=np.uint8))
    },
    "soft_mask.codes: is uint8 (28, 28), not uint8 (64, 64)": {
        "soft_mask": SoftMask((0, 0, 5, 5), np.zeros((28, 28), dtype=np.uint8))
    },
}


@pytest.mark.parametrize("message", BAD_INSTANCES)
def test_an_instance_that_nobody_could_use_is_refused(message):
    mask = np.zeros((40, 50), dtype=bool)
    mask[2:4, 5:8] = True
    bad = replace(label_from_mask(mask, 3, 0.5, Decision.SAM), **BAD_INSTANCES[message])
    good = tiny_instance(np.random.default_rng(0))
    row = ImageLabels.of_instances(17, "a.jpg", 50, 40, (good, bad))
    assert [str(problem) for problem in row_problems([row])] == [f"image 17, instances[1].{message}"]


def test_rows_that_contradict_themselves_are_refused_all_at_once():
    rows = [
        ImageLabels(1, "a", 50, 40, Status.OK),
        ImageLabels(2, "b", 50, 40, Status.FAILED),
        ImageLabels(3, "c", 0, 40, Status.EMPTY, "why"),
        ImageLabels.of_instances(1, "d", 50, 40, ()),
        ImageLabels.of_instances(2**63, "e", 50, 40, ()),
    ]
    assert [str(problem) for problem in row_problems(rows)] == [
        "image 1, status: is ok with 0 instances",
        "image 2, message: is '' where the status is failed",
        "image 3, width: is 0",
        "image 3, message: is 'why' where the status is empty",
        "image 1: is in the rows twice",
        f"image {2**63}, image_id: does not fit into 64 bits",
    ]
