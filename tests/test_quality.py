"""Mask quality against naive references and pycocotools."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from pipeline.masks import overlap as quality

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def rle(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


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
    np.testing.assert_array_equal(quality.inner_boundary(mask, width_px), naive_boundary(mask, width_px))


@pytest.mark.parametrize("width_px", [1, 3, 10])
def test_inner_boundary_is_the_published_one(width_px):
    blobs = cv2.GaussianBlur(np.random.default_rng(1).random((150, 200)), (0, 0), 9) > 0.5
    boundary = quality.inner_boundary(blobs, width_px)
    np.testing.assert_array_equal(boundary, published_boundary(blobs, width_px))
    assert 0 < boundary.sum() < blobs.sum()


def test_boundary_width_is_two_percent_of_the_diagonal():
    assert quality.boundary_width_px(300, 400) == 10
    assert quality.boundary_width_px(8, 8) == 1


@settings(deadline=None)
@given(data=st.data())
def test_iou_is_that_of_pycocotools(data):
    first = data.draw(masks)
    second = data.draw(hnp.arrays(bool, first.shape))
    expected = coco_mask.iou([rle(first)], [rle(second)], [0])[0, 0] if (first | second).any() else 0.0
    assert quality.mask_iou(first, second) == pytest.approx(expected)
    assert quality.measure(rle(first), rle(second)).iou == pytest.approx(expected)


@settings(deadline=None)
@given(data=st.data())
def test_measure_crops_without_changing_the_boundary_iou(data):
    first = data.draw(masks)
    second = data.draw(hnp.arrays(bool, first.shape))
    height, width = first.shape
    canvas_first, canvas_second = np.zeros((2, 60, 80), bool)
    canvas_first[5 : 5 + height, 9 : 9 + width] = first
    canvas_second[5 : 5 + height, 9 : 9 + width] = second
    whole = quality.boundary_iou(canvas_first, canvas_second, quality.boundary_width_px(60, 80))
    assert quality.measure(rle(canvas_first), rle(canvas_second)).boundary_iou == whole


def test_boundary_iou_sees_what_mask_iou_hardly_does():
    truth = np.zeros((200, 200), bool)
    truth[20:180, 20:180] = True
    ragged = truth.copy()
    ragged[20:180:2, 20:24] = False
    measured = quality.measure(rle(ragged), rle(truth))
    assert measured.iou > 0.98
    assert measured.boundary_iou < 0.9
    assert quality.measure(rle(truth), rle(truth)) == quality.MaskQuality(1.0, 1.0)


def test_empty_masks_count_as_zero():
    nothing = np.zeros((4, 4), bool)
    assert quality.measure(rle(nothing), rle(nothing)) == quality.MaskQuality(0.0, 0.0)
    assert quality.measure(rle(nothing), rle(~nothing)) == quality.MaskQuality(0.0, 0.0)


def box_rle(x0, y0, x1, y1):
    mask = np.zeros((20, 20), bool)
    mask[y0:y1, x0:x1] = True
    return rle(mask)


def test_matching_gives_each_truth_to_its_best_mask_once():
    truths = [box_rle(0, 0, 10, 10), box_rle(10, 10, 20, 20)]
    found = [box_rle(0, 0, 10, 8), box_rle(0, 0, 10, 9), box_rle(11, 10, 20, 20), box_rle(0, 12, 4, 16)]
    assert quality.match_to_truth(found, truths) == [None, 0, 1, None]
    assert quality.match_to_truth(found, []) == [None] * 4
    assert quality.match_to_truth([], truths) == []


def test_summary_counts_the_shares():
    ious = [0.5, 0.75, 0.9, 1.0]
    summary = quality.summarise([quality.MaskQuality(iou, iou / 2) for iou in ious])
    assert summary == quality.QualitySummary(4, pytest.approx(0.7875), pytest.approx(0.39375), 0.75, 0.5)
    assert quality.summarise([]).count == 0
