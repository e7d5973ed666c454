"""Run lengths, made and read, against pycocotools on whole images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from pipeline.masks.distances import distances_px, signed_distances_px
from pipeline.masks.run_lengths import (
    area_px,
    areas_px,
    box_xywh,
    box_xyxy,
    boxes_xywh,
    decode_mask,
    decode_window,
    encode_mask,
    encode_polygons,
    encode_runs,
    tight_window,
)
from pipeline.masks.windows import NOTHING, Window, nonzero_window, whole_image
from tests.refinement_fake import encode
from tests.tiny_coco import run_lengths

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@settings(deadline=None)
@given(mask=masks)
def test_masks_there_and_back(mask):
    rle = encode_mask(mask)
    assert rle == encode_mask(np.asfortranarray(mask)) == encode(mask) == encode_runs(run_lengths(mask), *mask.shape)
    np.testing.assert_array_equal(decode_mask(rle), mask)
    assert decode_mask(rle).dtype == bool


@settings(deadline=None)
@given(mask=masks)
def test_area_box_and_window_are_those_of_the_pixels(mask):
    rle = encode_mask(mask)
    assert (area_px(rle), tight_window(rle)) == (mask.sum(), nonzero_window(mask))
    assert list(box_xywh(rle)) == coco_mask.toBbox(rle).tolist()
    x, y, width, height = box_xywh(rle)
    assert box_xyxy(rle) == (x, y, x + width, y + height)
    assert all(isinstance(value, float) for value in (*box_xywh(rle), *box_xyxy(rle)))


@pytest.mark.parametrize("count", [0, 1, 255, 256, 600])
def test_areas_and_boxes_of_many_masks(count):
    rng = np.random.default_rng(count)
    rles = [encode_mask(rng.random((4, 5)) < 0.3) for _ in range(count)]
    assert areas_px(rles).tolist() == [area_px(rle) for rle in rles]
    assert boxes_xywh(rles).tolist() == [list(box_xywh(rle)) for rle in rles]


@settings(deadline=None)
@given(mask=masks, corners=st.tuples(*[st.integers(0, 9)] * 4))
def test_a_window_is_decoded_as_it_is_cut_out(mask, corners):
    window = Window(*corners) & whole_image(*mask.shape)
    part = decode_window(encode_mask(mask), window)
    np.testing.assert_array_equal(part, mask[window.y0 : window.y1, window.x0 : window.x1])
    assert part.flags.c_contiguous
    assert part.flags.owndata
    assert window.grown(2).grown(-2) == window


def test_a_mask_without_a_pixel_takes_up_nothing():
    assert tight_window(encode_mask(np.zeros((4, 5), bool))) == NOTHING


@pytest.mark.parametrize("count", [1, 2])
def test_polygons_cover_what_pycocotools_fills(count):
    polygons = [[1.0, 1, 5, 1, 5, 6], [4.0, 2, 8, 2, 8, 7, 4, 7]][:count]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 9, 10))).astype(bool)
    np.testing.assert_array_equal(decode_mask(encode_polygons(polygons, 9, 10)), expected)


def test_signed_distances_change_sign_between_pixels():
    mask = np.zeros((5, 9), bool)
    mask[:, :4] = True
    np.testing.assert_array_equal(signed_distances_px(mask)[2], [3.5, 2.5, 1.5, 0.5, -0.5, -1.5, -2.5, -3.5, -4.5])
    np.testing.assert_array_equal(distances_px(mask)[2], [4, 3, 2, 1, 0, 0, 0, 0, 0])
