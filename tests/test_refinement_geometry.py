"""Windows, SAM's low-resolution frame, and masks in crops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from segment_anything.utils.transforms import ResizeLongestSide

from pipeline.masks.crop_mask import CropMask, without_overlap
from pipeline.masks.windows import NOTHING, Window, nonzero_window, whole_image
from pipeline.refinement.geometry import LowresFrame
from pipeline.sam.frame import InputFrame
from tests.refinement_fake import encode

windows = st.builds(
    lambda x, y, w, h: Window(x, y, x + w, y + h),
    st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9),
)  # fmt: skip
sides = st.integers(1, 700)


def painted(window):
    array = np.zeros((20, 20), bool)
    array[whole_image(20, 20).slices(window)] = True
    return array


@settings(deadline=None)
@given(first=windows, second=windows)
def test_windows_meet_as_their_pixels_do(first, second):
    shared = painted(first) & painted(second)
    assert nonzero_window(shared) == first & second
    assert first.contains(second) == bool((shared == painted(second)).all())
    both = first & second
    np.testing.assert_array_equal(shared[first.y0 : first.y1, first.x0 : first.x1][first.slices(both)], True)


def test_windows_that_do_not_meet_share_nothing():
    assert Window(0, 0, 2, 2) & Window(3, 0, 5, 2) == NOTHING
    assert nonzero_window(np.zeros((3, 4))) == NOTHING


@pytest.mark.slow
@settings(deadline=None)
@given(height=sides, width=sides)
def test_frame_scales_as_segment_anything_does(height, width):
    frame = LowresFrame(height, width, InputFrame(1024, 256))
    resized_h, resized_w = ResizeLongestSide.get_preprocess_shape(height, width, 1024)
    corner = frame.to_lowres(whole_image(height, width))
    assert corner == frame.content
    assert corner.x1 == max(1, -(-resized_w // 4))
    assert corner.y1 == max(1, -(-resized_h // 4))
    coords = ResizeLongestSide(1024).apply_coords(np.array([[width, height]], float), (height, width))[0]
    if min(resized_h, resized_w) > 0:
        np.testing.assert_allclose([width * frame.scale_x * 4, height * frame.scale_y * 4], coords)


@settings(deadline=None)
@given(height=st.integers(5, 200), width=st.integers(5, 200), seed=st.integers(0, 99))
def test_nothing_is_above_zero_outside_of_the_window_a_mask_is_interpolated_in(height, width, seed):
    frame = LowresFrame(height, width, InputFrame(64, 32))
    logits = np.full((32, 32), -1.0, np.float32)
    content = frame.content
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, content.height), rng.integers(0, content.width)
    logits[y : y + 3, x : x + 2] = 50
    shown = logits[: content.height, : content.width] > 0
    window = frame.to_image(nonzero_window(shown))
    dense = InputFrame(64, 32).full_logits(logits, (height, width), (0, 0, width, height)) > 0
    outside = dense.copy()
    outside[whole_image(height, width).slices(window)] = False
    assert not outside.any()


boolean_images = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@settings(deadline=None)
@given(mask=boolean_images)
def test_crop_masks_become_the_rle_of_pycocotools(mask):
    height, width = mask.shape
    crop = CropMask.of_array(mask, whole_image(height, width))
    assert crop.to_rle(height, width) == encode(mask)
    assert CropMask.of_rle(encode(mask)) == crop


@settings(deadline=None)
@given(mask=boolean_images, dx=st.integers(0, 5), dy=st.integers(0, 5))
def test_crop_masks_move_within_an_image(mask, dx, dy):
    height, width = mask.shape
    canvas = np.zeros((20, 20), bool)
    canvas[dy : dy + height, dx : dx + width] = mask
    moved = CropMask.of_array(mask, whole_image(height, width)).moved(dx, dy)
    assert moved.to_rle(20, 20) == encode(canvas)


def test_a_crop_mask_of_a_huge_image_stays_small():
    crop = CropMask.of_array(np.ones((3, 4), bool), Window(7_000, 5_000, 7_004, 5_003))
    rle = crop.to_rle(6_000, 8_000)
    assert rle["size"] == [6_000, 8_000]
    canvas = np.zeros((6_000, 8_000), np.uint8)
    canvas[5_000:5_003, 7_000:7_004] = 1
    assert rle == encode(canvas)


@settings(deadline=None)
@given(data=st.data(), count=st.integers(1, 4))
def test_without_overlap_gives_every_pixel_to_the_best_score(data, count):
    masks = data.draw(hnp.arrays(bool, (count, 6, 7)))
    scores = data.draw(st.lists(st.sampled_from([0.2, 0.5, 0.9]), min_size=count, max_size=count))
    owners = np.full((6, 7), -1)
    for index in sorted(range(count), key=lambda i: (scores[i], -i)):
        owners[masks[index]] = index
    separate = without_overlap([CropMask.of_array(m, whole_image(6, 7)) for m in masks], scores)
    for index, crop in enumerate(separate):
        assert crop.to_rle(6, 7) == encode(owners == index)


def test_an_empty_crop_mask_has_no_pixel():
    empty = CropMask.of_array(np.zeros((3, 3), bool), Window(2, 2, 5, 5))
    assert empty.is_empty
    assert not empty.array().any()
    assert empty.to_rle(9, 9) == encode(np.zeros((9, 9)))


@pytest.mark.parametrize("side", [1, 3])
def test_a_mask_of_a_whole_image_is_one_run(side):
    full = CropMask.of_array(np.ones((side, side), bool), whole_image(side, side))
    assert full.to_rle(side, side) == encode(np.ones((side, side)))
