"""Overlap, boundaries and matching of masks, against naive references and pycocotools."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from pipeline.masks.boundaries import Border, border_iou, boundary_width_px, inner_boundary
from pipeline.masks.matching import best_pairs, match_to_truth
from pipeline.masks.overlap import area_match, box_ious, mask_iou, rle_iou, rle_ious, soft_iou

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def rle(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def boundary_iou(first, second):
    return border_iou(Border.of_rle(rle(first)), Border.of_rle(rle(second)))


def naive_boundary(mask, width_px):
    """Every pixel of the mask that has a pixel outside within `width_px` rows and columns."""
    height, width = mask.shape
    boundary = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        reach = range(-width_px, width_px + 1)
        boundary[y, x] = any(
            not (0 <= y + dy < height and 0 <= x + dx < width and mask[y + dy, x + dx])
            for dy, dx in product(reach, reach)
        )
    return boundary


def published_boundary(mask, width_px):
    """The recipe of the paper: pad, erode with a 3 x 3 square, subtract."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width_px)
    return (mask.astype(np.uint8) - eroded[1:-1, 1:-1]).astype(bool)


@settings(deadline=None)
@given(mask=masks, width_px=st.integers(1, 4))
def test_inner_boundary_is_the_naive_one(mask, width_px):
    np.testing.assert_array_equal(inner_boundary(mask, width_px), naive_boundary(mask, width_px))


@pytest.mark.parametrize("width_px", [1, 3, 10])
def test_inner_boundary_is_the_published_one(width_px):
    blobs = cv2.GaussianBlur(np.random.default_rng(1).random((150, 200)), (0, 0), 9) > 0.5
    boundary = inner_boundary(blobs, width_px)
    np.testing.assert_array_equal(boundary, published_boundary(blobs, width_px))
    assert 0 < boundary.sum() < blobs.sum()


def test_boundary_width_is_two_percent_of_the_diagonal():
    assert boundary_width_px(300, 400) == 10
    assert boundary_width_px(8, 8) == 1


@settings(deadline=None)
@given(data=st.data())
def test_iou_is_that_of_pycocotools(data):
    first = data.draw(masks)
    second = data.draw(hnp.arrays(bool, first.shape))
    expected = coco_mask.iou([rle(first)], [rle(second)], [0])[0, 0] if (first | second).any() else 0.0
    assert mask_iou(first, second) == pytest.approx(expected)
    assert rle_iou(rle(first), rle(second)) == pytest.approx(expected)


@settings(deadline=None)
@given(data=st.data())
def test_borders_are_cropped_without_changing_the_boundary_iou(data):
    first = data.draw(masks)
    second = data.draw(hnp.arrays(bool, first.shape))
    height, width = first.shape
    canvas_first, canvas_second = np.zeros((2, 60, 80), bool)
    canvas_first[5 : 5 + height, 9 : 9 + width] = first
    canvas_second[5 : 5 + height, 9 : 9 + width] = second
    width_px = boundary_width_px(60, 80)
    whole = mask_iou(inner_boundary(canvas_first, width_px), inner_boundary(canvas_second, width_px))
    assert boundary_iou(canvas_first, canvas_second) == whole


def test_boundary_iou_sees_what_mask_iou_hardly_does():
    truth = np.zeros((200, 200), bool)
    truth[20:180, 20:180] = True
    ragged = truth.copy()
    ragged[20:180:2, 20:24] = False
    assert mask_iou(ragged, truth) > 0.98
    assert boundary_iou(ragged, truth) < 0.9
    assert (mask_iou(truth, truth), boundary_iou(truth, truth)) == (1.0, 1.0)


def test_empty_masks_count_as_zero():
    nothing = np.zeros((4, 4), bool)
    for other in (nothing, ~nothing):
        assert (mask_iou(nothing, other), rle_iou(rle(nothing), rle(other)), boundary_iou(nothing, other)) == (0, 0, 0)


def test_iou_is_taken_over_the_last_two_axes():
    first, second = np.random.default_rng(0).random((2, 5, 6, 7)) > 0.5
    each = [mask_iou(*pair) for pair in zip(first, second, strict=True)]
    np.testing.assert_array_equal(mask_iou(first, second), each)
    np.testing.assert_array_equal(mask_iou(first, second[:1]), [mask_iou(one, second[0]) for one in first])


def test_of_a_crowd_the_share_that_lies_in_it_counts():
    masks, truths = [box_rle(0, 0, 4, 4), box_rle(2, 0, 6, 4)], [box_rle(0, 0, 20, 4)] * 2
    crowds = np.array([False, True])
    np.testing.assert_allclose(rle_ious(masks, truths, crowds), [[0.2, 1.0]] * 2)
    boxes, whole = np.array([[0.0, 0, 4, 4], [2, 0, 4, 4]]), np.array([[0.0, 0, 20, 4]] * 2)
    np.testing.assert_allclose(box_ious(boxes, whole, crowds), [[0.2, 1.0]] * 2)


def test_nothing_overlaps_nothing():
    assert rle_ious([], [box_rle(0, 0, 1, 1)]).shape == (0, 1)
    assert rle_ious([box_rle(0, 0, 1, 1)], []).shape == (1, 0)
    assert box_ious(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


def test_area_match_is_the_same_both_ways():
    assert area_match(3, 12) == area_match(12, 3) == 0.25
    assert area_match(0, 5) == 0


@settings(deadline=None)
@given(
    masks=hnp.arrays(bool, (3, 5, 6)),
    weights=hnp.arrays(np.float32, (5, 6), elements=st.floats(0, 1, width=32)),
)
def test_soft_iou_is_minima_over_maxima(masks, weights):
    for mask, measured in zip(masks, soft_iou(masks, weights), strict=True):
        maxima = np.maximum(mask, weights).sum(dtype=float)
        minima = np.minimum(mask, weights).sum(dtype=float)
        assert measured == pytest.approx(minima / maxima if maxima else 0.0, abs=1e-6)


def box_rle(x0, y0, x1, y1):
    mask = np.zeros((20, 20), bool)
    mask[y0:y1, x0:x1] = True
    return rle(mask)


def test_matching_gives_each_truth_to_its_best_mask_once():
    truths = [box_rle(0, 0, 10, 10), box_rle(10, 10, 20, 20)]
    found = [box_rle(0, 0, 10, 8), box_rle(0, 0, 10, 9), box_rle(11, 10, 20, 20), box_rle(0, 12, 4, 16)]
    assert match_to_truth(found, truths) == [None, 0, 1, None]
    assert match_to_truth(found, []) == [None] * 4
    assert match_to_truth([], truths) == []


def test_the_best_pair_comes_first_and_nothing_is_paired_twice():
    ious = np.array([[0.6, 0.9, 0.0], [0.7, 0.95, 0.0], [0.0, 0.0, 0.4]])
    assert best_pairs(ious, 0.5) == [(1, 1), (0, 0)]
    assert best_pairs(np.full((2, 2), 0.5), 0.5) == [(0, 0), (1, 1)]
    assert best_pairs(np.zeros((0, 3)), 0.5) == []
