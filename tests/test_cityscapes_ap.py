"""The instance AP of Cityscapes, against figures of cityscapesscripts and by hand."""

import math

import numpy as np
import pytest

from pipeline.evaluation.cityscapes_ap import CityscapesDetection, CityscapesPrecision
from pipeline.masks.crop_mask import CropMask
from pipeline.masks.windows import whole_image
from tests.cityscapes_miniatures import largest_difference, miniatures, own_figures, recorded_figures

CAR, PERSON = 26, 24


@pytest.mark.parametrize("seed", recorded_figures())
def test_miniatures_measure_as_with_cityscapesscripts(seed):
    assert largest_difference(own_figures(miniatures(seed)), recorded_figures()[seed]) < 1e-12


def test_recorded_figures_are_of_all_kinds():
    figures = [ap for each in recorded_figures().values() for of_class in each.values() for ap in of_class]
    assert sum(ap is None for ap in figures) > 100
    assert sum(ap == 0 for ap in figures) > 100
    assert len({ap for ap in figures if ap is not None and 0 < ap < 1}) > 50


def street() -> np.ndarray:
    labels = np.full((60, 80), 7, np.uint16)
    labels[5:25, 5:25] = 26_001
    return labels


def found(class_id: int, score: float, top: int, left: int, side: int = 20) -> CityscapesDetection:
    mask = np.zeros((60, 80), bool)
    mask[top : top + side, left : left + side] = True
    return CityscapesDetection(class_id, score, CropMask.of_array(mask, whole_image(60, 80)))


def precision(labels: np.ndarray, *detections: CityscapesDetection, class_id: int = CAR) -> list[float]:
    sums = CityscapesPrecision()
    sums.add(labels, list(detections))
    return sums.by_class()[class_id].tolist()


def test_a_perfect_detection_has_ap_one():
    assert precision(street(), found(CAR, 0.9, 5, 5)) == [1.0] * 10


def test_a_second_detection_of_a_truth_is_wrong():
    assert precision(street(), found(CAR, 0.9, 5, 5), found(CAR, 0.8, 5, 5)) == [1.0] * 10
    worse = precision(street(), found(CAR, 0.9, 30, 50), found(CAR, 0.8, 5, 5))
    # Two points of recall 0 and one of recall 1, precision 1/2: half a step from 0, half at 1/2.
    assert worse == [pytest.approx(0.25)] * 10


def test_void_hides_a_wrong_detection_by_the_share_that_lies_on_it():
    labels = street()
    labels[30:50, 50:65] = 0  # 15 of 20 columns
    values = precision(labels, found(CAR, 0.9, 30, 50), found(CAR, 0.8, 5, 5))
    assert values[:5] == [1.0] * 5  # 0.75 of it is more than 0.5 to 0.7
    assert values[6:] == [pytest.approx(0.25)] * 4


@pytest.mark.parametrize("value", [26, 26_002])
def test_groups_and_small_truths_hide_detections_and_are_not_missed(value):
    labels = street()
    size = 20 if value == 26 else 9
    labels[30 : 30 + size, 50 : 50 + size] = value
    detections = [found(CAR, 0.9, 30, 50, size), found(CAR, 0.8, 5, 5)]
    assert precision(labels, *detections) == [1.0] * 10
    assert precision(labels, detections[1]) == [1.0] * 10


def test_a_group_of_another_class_hides_nothing():
    labels = street()
    labels[30:50, 50:70] = PERSON
    assert precision(labels, found(CAR, 0.9, 30, 50), found(CAR, 0.8, 5, 5)) == [pytest.approx(0.25)] * 10


def test_instances_of_trailers_are_not_void_but_groups_of_them_are():
    for value, ap in ((30_001, 0.25), (30, 1.0)):
        labels = street()
        labels[30:50, 50:70] = value
        assert precision(labels, found(CAR, 0.9, 30, 50), found(CAR, 0.8, 5, 5)) == [pytest.approx(ap)] * 10


def test_classes_without_truths_have_no_ap_and_truths_without_detections_have_zero():
    assert precision(street()) == [0.0] * 10
    assert all(math.isnan(ap) for ap in precision(street(), found(PERSON, 0.9, 5, 5), class_id=PERSON))


def test_a_class_of_hidden_detections_alone_has_zero():
    labels = street()
    labels[30:50, 50:70] = 0
    assert precision(labels, found(CAR, 0.9, 30, 50)) == [0.0] * 10  # cityscapesscripts fails on this
