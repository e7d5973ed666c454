from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.masks.windows import Window
from pipeline.structure.anchors import Anchors, sample_anchors
from pipeline.structure.settings import DistillSettings

HW = (48, 64)


def rle(x0: int, y0: int, x1: int, y1: int) -> Any:
    mask = np.zeros(HW, dtype=np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    return coco_mask.encode(mask)


def sample(*instances: Any, image_id: int = 7, **settings: Any) -> Anchors:
    return sample_anchors(image_id, HW, instances, DistillSettings(**settings))


def inside(anchors_xy: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    return ((anchors_xy > (x0, y0)) & (anchors_xy < (x1, y1))).all(axis=1)


def in_corner(share: float, side: int) -> float:
    """How many of the anchors that lie anywhere fall into a square of so many pixels a side: the mean."""
    return share * side**2 / (HW[0] * HW[1])


def test_half_lie_inside_evenly_over_all_pixels_of_instances():
    boxes = [(0, 0, 10, 10), (20, 10, 60, 40)]  # 100 and 1,200 pixels
    anchors = sample(*(rle(*box) for box in boxes), anchors=1000)
    assert anchors.xy.shape == (1000, 2)
    assert len(anchors) == len(anchors.instance) == 1000
    assert anchors.xy.dtype == np.float32
    assert (anchors.xy % 1 == 0.5).all()
    counts = np.array([int(inside(anchors.xy, *box).sum()) for box in boxes])
    elsewhere = 1000 - counts.sum()
    # Those that lie anywhere fall on instances, too: 1,300 of 3,072 pixels.
    np.testing.assert_allclose(elsewhere, 500 * (1 - 1300 / 3072), atol=45)
    expected = [500 * area / 1300 + 500 * area / 3072 for area in (100, 1200)]
    np.testing.assert_allclose(counts, expected, atol=45)


def test_all_inside_are_exactly_the_share():
    box = (3, 4, 40, 30)
    anchors = sample(rle(*box), anchors=64, inside_share=1.0)
    assert inside(anchors.xy, *box).all()
    assert (anchors.instance == 0).all()


def test_by_instance_each_has_as_many_of_any_size():
    boxes = [(0, 0, 4, 4), (10, 10, 60, 40), (30, 2, 35, 8)]
    anchors = sample(*(rle(*box) for box in boxes), anchors=64, inside_share=1.0, inside="by-instance")
    counts = [int(inside(anchors.xy, *box).sum()) for box in boxes]
    assert sum(counts) == 64
    assert max(counts) - min(counts) == 1
    assert np.bincount(anchors.instance).tolist() == counts


@pytest.mark.parametrize("where", ["uniform", "by-instance"])
def test_the_others_lie_anywhere(where):
    anchors = sample(rle(0, 0, 2, 2), anchors=4096, inside_share=0.25, inside=where)
    assert inside(anchors.xy, 0, 0, 64, 48).all()
    assert (anchors.instance == 0).sum() - 1024 == pytest.approx(in_corner(3072, 2), abs=8)
    others_xy = anchors.xy[anchors.instance < 0]
    quarters = [inside(others_xy, x, y, x + 32, y + 24).mean() for x in (0, 32) for y in (0, 24)]
    np.testing.assert_allclose(quarters, 0.25, atol=0.03)


def test_the_order_is_random_so_that_any_part_is_like_the_whole():
    anchors = sample(rle(0, 0, 2, 2), anchors=4096)
    shares = [(part == 0).mean() for part in np.split(anchors.instance, 8)]
    np.testing.assert_allclose(shares, 0.5, atol=0.07)


@pytest.mark.parametrize("where", ["uniform", "by-instance"])
@pytest.mark.parametrize("instances", [[], [rle(0, 0, 0, 0)]])
def test_without_instances_all_lie_anywhere(instances, where):
    anchors = sample(*instances, anchors=64, inside_share=1.0, inside=where)
    assert inside(anchors.xy, 0, 0, 64, 48).all()
    assert len(np.unique(anchors.xy, axis=0)) > 50
    assert (anchors.instance == -1).all()


@pytest.mark.parametrize("where", ["uniform", "by-instance"])
def test_an_instance_of_one_pixel_gets_its_share(where):
    anchors = sample(rle(5, 9, 6, 10), anchors=16, inside=where)
    own = anchors.instance == 0
    assert own.sum() >= 8
    assert (anchors.xy[own] == (5.5, 9.5)).all()
    assert not (anchors.xy[~own] == (5.5, 9.5)).all(axis=1).any()


@pytest.mark.parametrize("where", ["uniform", "by-instance"])
def test_pixels_are_not_drawn_twice_where_there_are_enough(where):
    anchors = sample(rle(0, 0, 8, 8), anchors=64, inside_share=1.0, inside=where)
    assert len(np.unique(anchors.xy, axis=0)) == 64


def test_more_instances_than_anchors():
    boxes = [(x, 0, x + 1, 1) for x in range(20)]
    anchors = sample(*(rle(*box) for box in boxes), anchors=8, inside_share=1.0, inside="by-instance")
    assert len(np.unique(anchors.xy, axis=0)) == len(set(anchors.instance.tolist())) == 8
    assert inside(anchors.xy, 0, 0, 20, 1).all()


@pytest.mark.parametrize("where", ["uniform", "by-instance"])
def test_an_anchor_knows_its_instance_of_several_the_first(where):
    boxes = [(10, 10, 30, 30), (0, 0, 20, 20), (40, 40, 40, 40), (50, 5, 60, 45)]
    anchors = sample(*(rle(*box) for box in boxes), anchors=512, inside=where)
    for xy, instance in zip(anchors.xy, anchors.instance.tolist(), strict=True):
        holding = [index for index, box in enumerate(boxes) if inside(xy[None], *box)[0]]
        assert instance == (holding[0] if holding else -1)
    assert set(anchors.instance.tolist()) == {-1, 0, 1, 3}


def test_anchors_of_a_tile_are_in_its_pixels():
    anchors = sample(rle(0, 0, 20, 20), anchors=32)
    members = np.array([3, 17, 5])
    moved = anchors.within(members, Window(7, 2, 40, 30))
    np.testing.assert_array_equal(moved.xy + np.float32([7, 2]), anchors.xy[members])
    np.testing.assert_array_equal(moved.instance, anchors.instance[members])
    assert moved.xy.dtype == np.float32


def test_seed_and_image_decide_and_ids_may_be_negative():
    instance = rle(5, 5, 40, 40)
    same = sample(instance, image_id=-3, seed=1)
    assert np.array_equal(same.xy, sample(instance, image_id=-3, seed=1).xy)
    assert not np.array_equal(same.xy, sample(instance, image_id=-3, seed=2).xy)
    assert not np.array_equal(same.xy, sample(instance, image_id=3, seed=1).xy)
    unlike = [sample(instance, image_id=-3, seed=1, source="truth"), sample(instance, image_id=-3, seed=1, cell_px=4)]
    assert all(np.array_equal(same.xy, other.xy) for other in unlike)  # so that the maps alone differ
