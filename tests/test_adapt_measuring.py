"""Measuring a SAM on imitated teachers' masks: marks by quality, against the truth, within limits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.adaptation import measuring
from pipeline.adaptation.labelled import UsableImages
from pipeline.adaptation.measuring import QUALITIES, examine, make_exams, noises_of
from pipeline.compute.settings import ComputeSettings
from pipeline.refinement.settings import RefineSettings
from tests.refinement_fake import FakeEngine, disc, encode, paint
from tests.tiny_coco import write_json

HEIGHT, WIDTH = 120, 160
NOISES = (1.2, 0.6, 0.1)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Four images of two discs each, in which a `FakeEngine` finds every object."""
    folder = tmp_path_factory.mktemp("discs")
    images, annotations = [], []
    for number in range(1, 5):
        masks = [disc(HEIGHT, WIDTH, 45 + number, 60, 25), disc(HEIGHT, WIDTH, 120, 40 + number, 18)]
        Image.fromarray(paint(HEIGHT, WIDTH, masks)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
        for mask in masks:
            rle = encode(mask)
            segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append(about | {"segmentation": segmentation, "bbox": [0, 0, 1, 1], "area": 1})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}
    path = write_json(folder / "annotations.json", content)
    return UsableImages.read(path, folder, ComputeSettings(), 0)


def test_every_mask_is_marked_for_every_quality(labelled):
    exams = list(make_exams(labelled, labelled.image_ids, NOISES, seed=0, folds=1))
    marks = examine(exams, FakeEngine(), RefineSettings(choice="agreement", zoom_below_px=0))
    assert marks.qualities == (0, 1, 2) * 8
    by_quality = [
        np.mean([iou for at, iou in zip(marks.qualities, marks.teacher, strict=True) if at == each])
        for each in range(3)
    ]
    assert by_quality[0] < by_quality[1] < by_quality[2]
    assert by_quality[2] > 0.9
    assert min(marks.refined) > 0.85  # the engine knows the truth
    assert np.mean(marks.refined) > np.mean(marks.teacher)


def test_the_same_seed_makes_the_same_exams(labelled):
    first, again, other = (
        [exam.given.labels for exam in make_exams(labelled, labelled.image_ids, NOISES, seed, folds=1)]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_worse_teacher_errs_grossly_more_often(labelled):
    """The wrong masks are asked about, and marked against the right ones."""
    exams = list(make_exams(labelled, labelled.image_ids, (1.0, 1.0, 0.0), seed=0, folds=1))
    marks = examine(exams, FakeEngine(), RefineSettings(choice="agreement", zoom_below_px=0))
    poor = [iou < 0.75 for iou, quality in zip(marks.teacher, marks.qualities, strict=True) if quality < 2]
    assert sum(poor) >= len(poor) / 3
    assert min(iou for iou, quality in zip(marks.teacher, marks.qualities, strict=True) if quality == 2) > 0.85


def test_no_more_is_measured_than_is_needed(labelled, monkeypatch):
    monkeypatch.setattr(measuring, "MEASURED_IMAGES", 6)
    monkeypatch.setattr(measuring, "MEASURED_INSTANCES", 6)
    exams = list(make_exams(labelled, labelled.image_ids, NOISES, seed=0, folds=2))
    assert [len(exam.truths) for exam in exams] == [3, 3, 3]  # three images, an instance of each, three qualities


def test_the_noises_fit_the_images(labelled):
    noises = noises_of(labelled, seed=0)
    assert len(noises) == len(QUALITIES)
    assert noises[0] > noises[1] > noises[2]
