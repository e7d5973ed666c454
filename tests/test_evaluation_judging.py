"""Detections judged one by one: right, of another class, false; and the truths that are missed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.coco.reading import read_coco
from pipeline.evaluation.image_sides import ImageTruths
from pipeline.evaluation.judging import ConfusionCounts, JudgedImage, judge
from tests.test_evaluation_models import HEIGHT, WIDTH, annotation, dataset_content, row
from tests.tiny_coco import write_json


def box(left: int, width: int = 20, top: int = 10) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + 40, left : left + width] = True
    return mask


def truths(folder: Path, *given) -> ImageTruths:
    annotations = [
        annotation(number, 1, category, mask, iscrowd=crowd)
        for number, (mask, category, crowd) in enumerate(given, start=1)
    ]
    dataset = read_coco(write_json(folder / "truth.json", dataset_content(annotations, 1)))
    return ImageTruths.of_image(dataset, 1)


def test_each_detection_and_each_truth_is_judged_once(tmp_path):
    shown = truths(tmp_path, (box(0), 3, 0), (box(30), 7, 0), (box(60), 3, 0), (box(100, 40), 3, 1))
    labels = row(
        1,
        [
            (box(1), 3, 0.9),  # right
            (box(0), 7, 0.95),  # the truth is taken by its own class
            (box(30), 3, 0.8),  # another class
            (box(110), 3, 0.7),  # in the crowd
            (box(60), 3, 0.2),  # below the score
            (box(0, top=80), 3, 0.6),  # nothing there
        ],
    )
    judged = judge(labels, shown, 0.5)
    assert judged == JudgedImage(right=((0, 0),), confused=((2, 1),), false=(1, 5), missed=(2,))
    assert judged.errors == 4
    counts = ConfusionCounts((3, 7, 11))
    counts.add(labels, shown, judged)
    assert counts.counts().tolist() == [
        [1, 0, 0, 1],  # one missed
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 1, 0, 0],  # found where there is nothing
    ]


@pytest.mark.parametrize("found", [[], [(box(0), 3, 0.9)]])
def test_an_image_without_truths_has_false_finds_alone(tmp_path, found):
    judged = judge(row(1, found), truths(tmp_path), 0.5)
    assert judged == JudgedImage((), (), tuple(range(len(found))), ())


def test_an_image_without_detections_has_misses_alone(tmp_path):
    assert judge(row(1, []), truths(tmp_path, (box(0), 3, 0)), 0.0) == JudgedImage((), (), (), (0,))
