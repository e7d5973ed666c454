from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.structure.anchors import sample_anchors
from pipeline.structure.settings import DistillSettings

HW = (48, 64)


def rle(x0: int, y0: int, x1: int, y1: int) -> Any:
    mask = np.zeros(HW, dtype=np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    return coco_mask.encode(mask)


def sample(*instances: Any, image_id: int = 7, **settings: Any) -> np.ndarray:
    return sample_anchors(image_id, HW, instances, DistillSettings(**settings))


def inside(anchors_xy: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    return ((anchors_xy > (x0, y0)) & (anchors_xy < (x1, y1))).all(axis=1)


def test_half_lie_inside_spread_evenly_over_instances_of_any_size():
    boxes = [(0, 0, 4, 4), (10, 10, 60, 40), (30, 2, 35, 8)]
    anchors_xy = sample(*(rle(*box) for box in boxes), anchors=128)
    assert anchors_xy.shape == (128, 2)
    assert anchors_xy.dtype == np.float32
    counts = [int(inside(anchors_xy[:64], *box).sum()) for box in boxes]
    assert sum(counts) == 64
    assert max(counts) - min(counts) == 1
    assert (anchors_xy % 1 == 0.5).all()


def test_the_others_lie_anywhere():
    anchors_xy = sample(rle(0, 0, 2, 2), anchors=4096, inside_share=0.25)[1024:]
    assert inside(anchors_xy, 0, 0, 64, 48).all()
    quarters = [inside(anchors_xy, x, y, x + 32, y + 24).mean() for x in (0, 32) for y in (0, 24)]
    np.testing.assert_allclose(quarters, 0.25, atol=0.03)


@pytest.mark.parametrize("instances", [[], [rle(0, 0, 0, 0)]])
def test_without_instances_all_lie_anywhere(instances):
    anchors_xy = sample(*instances, anchors=64, inside_share=1.0)
    assert inside(anchors_xy, 0, 0, 64, 48).all()
    assert len(np.unique(anchors_xy, axis=0)) > 50


def test_an_instance_of_one_pixel_gets_its_share():
    anchors_xy = sample(rle(5, 9, 6, 10), anchors=16)
    assert (anchors_xy[:8] == (5.5, 9.5)).all()


def test_pixels_are_not_taken_twice_where_there_are_enough():
    anchors_xy = sample(rle(0, 0, 8, 8), anchors=64, inside_share=1.0)
    assert len(np.unique(anchors_xy, axis=0)) == 64


def test_more_instances_than_anchors():
    boxes = [(x, 0, x + 1, 1) for x in range(20)]
    anchors_xy = sample(*(rle(*box) for box in boxes), anchors=16)
    assert len(np.unique(anchors_xy[:8], axis=0)) == 8
    assert inside(anchors_xy[:8], 0, 0, 20, 1).all()


def test_seed_and_image_decide_and_ids_may_be_negative():
    instance = rle(5, 5, 40, 40)
    same = sample(instance, image_id=-3, seed=1)
    assert np.array_equal(same, sample(instance, image_id=-3, seed=1))
    assert not np.array_equal(same, sample(instance, image_id=-3, seed=2))
    assert not np.array_equal(same, sample(instance, image_id=3, seed=1))
