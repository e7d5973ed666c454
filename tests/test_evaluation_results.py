"""`evaluation.json`: written whole, read back, refused where it is not what it should be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.coco.model import CocoCategory
from pipeline.errors import StoreError
from pipeline.evaluation.results import (
    FORMAT,
    FORMAT_VERSION,
    CategoryResult,
    Confusion,
    Evaluation,
    Metrics,
    ModelResult,
    read_evaluation,
    write_evaluation,
)

METRICS = Metrics(0.25, 0.5, 0.125, None, 0.3, 0.2, 0.4)
MODEL = ModelResult(
    node="train-teacher",
    role="teacher",
    round=1,
    images=4,
    failed_images=0,
    detections=9,
    mask=METRICS,
    box=METRICS,
    boundary=None,
    categories=(CategoryResult(3, "cat", 5, METRICS, METRICS, None),),
    detections_file="detections/train-teacher.json",
    iterations=600,
    confusion=Confusion(0.5, ((4, 1), (2, 0))),
    resampled_ap=(0.2, 0.3),
)
EVALUATION = Evaluation(FORMAT, FORMAT_VERSION, 100, (CocoCategory(3, "cat"),), (MODEL,), (), ("Something.",))


def test_an_evaluation_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "evaluation.json"
    write_evaluation(path, EVALUATION)
    assert read_evaluation(path) == EVALUATION
    assert json.loads(path.read_text())["models"][0]["mask"]["ap_small"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "'s4m-evaluation' 99; this program reads 's4m-evaluation' 3"),
        ({"format": "other"}, "'other' 3"),
        ({"models": [{}]}, r"damaged .*node"),
        (None, "is not an evaluation, or it is damaged"),
    ],
)
def test_what_is_no_evaluation_is_refused(tmp_path, change: dict[str, Any] | None, message):
    path = tmp_path / "evaluation.json"
    write_evaluation(path, EVALUATION)
    path.write_text("{" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match=message):
        read_evaluation(path)


def test_a_missing_evaluation_says_what_to_do(tmp_path):
    with pytest.raises(StoreError, match="Run evaluate again"):
        read_evaluation(tmp_path / "evaluation.json")
