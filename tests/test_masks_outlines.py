"""One polygon for a mask, exact to the pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from pipeline.masks.outlines import outline_xy


def filled(outline: list[tuple[float, float]], shape: tuple[int, int]) -> np.ndarray:
    flat = [value for point in outline for value in point]
    return coco_mask.decode(coco_mask.frPyObjects([flat], *shape)[0]).astype(bool)


@settings(max_examples=150, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_comes_back_by_pycocotools(mask):
    outline = outline_xy(mask)
    assert bool(outline) == bool(mask.any())
    if outline:
        assert np.array_equal(filled(outline, mask.shape), mask)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(50, 700), st.integers(50, 700))
def test_percents_there_and_back_lose_nothing(seed, width, height):
    rng = np.random.default_rng(seed)
    mask = cv2.resize(rng.uniform(size=(5, 5)), (width, height)) > 0.5
    mask[rng.integers(height), rng.integers(width)] ^= True
    mask[0, 0] = True
    percents = [(100 * x / width, 100 * y / height) for x, y in outline_xy(mask)]
    back = [(x / 100 * width, y / 100 * height) for x, y in percents]  # as Label Studio exports
    assert np.array_equal(filled(back, mask.shape), mask)


@pytest.mark.parametrize("hole", [False, True])
def test_corners_alone_are_points_and_the_enclosed_area_is_that_of_the_mask(hole):
    mask = np.zeros((20, 20), dtype=bool)
    mask[2:12, 3:15] = True
    mask[5:8, 6:9] = not hole
    outline = outline_xy(mask)
    assert len(outline) == (10 if hole else 4)
    xs, ys = np.array(outline, dtype=float).T
    shoelace = (xs * np.roll(ys, -1) - ys * np.roll(xs, -1)).sum() / 2
    assert abs(shoelace) == mask.sum()
