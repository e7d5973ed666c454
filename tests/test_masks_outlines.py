"""One polygon for a mask, exact to the pixel."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from shapely.geometry import Point, Polygon

from pipeline.masks.outlines import joined_xy, outline_xy, part_outlines


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


@pytest.mark.slow
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


MASKS = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def union(outlines: list[list[tuple[int, int]]], shape: tuple[int, int]) -> np.ndarray:
    masks = [filled(outline, shape) for outline in outlines]
    return np.logical_or.reduce(masks, axis=0) if masks else np.zeros(shape, bool)


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_a_mask_is_the_union_of_its_parts_drawn_by_pycocotools(mask):
    outlines = part_outlines(mask)
    assert len(outlines) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    assert np.array_equal(union([outline.joined() for outline in outlines], mask.shape), mask)
    if outlines:
        rings = [ring for outline in outlines for ring in (outline.exterior, *outline.holes)]
        assert np.array_equal(filled(joined_xy(rings), mask.shape), mask)


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_outlines_are_valid_geometry_of_the_area_of_the_mask(mask):
    polygons = [Polygon(outline.exterior, outline.holes) for outline in part_outlines(mask)]
    assert all(polygon.is_valid for polygon in polygons)
    assert sum(polygon.area for polygon in polygons) == mask.sum()
    assert all(polygon.exterior.is_ccw for polygon in polygons)  # with y down: clockwise on the screen
    assert not any(hole.is_ccw for polygon in polygons for hole in polygon.interiors)


def test_a_simplified_outline_has_fewer_points_and_misses_none_by_more_than_the_tolerance():
    rows, columns = np.ogrid[:80, :80]
    mask = (rows - 40) ** 2 + (columns - 40) ** 2 < 35**2
    mask[30:50, 30:50] = False
    mask[5, 38] = False  # a notch of one pixel
    (exact,) = part_outlines(mask)
    assert exact.simplified(0) == exact
    for tolerance in (0.5, 1.0, 3.0):
        simple = exact.simplified(tolerance)
        assert len(simple.exterior) < len(exact.exterior)
        assert set(simple.exterior) <= set(exact.exterior)
        line = Polygon(simple.exterior).exterior
        assert max(line.distance(Point(*point)) for point in exact.exterior) <= tolerance + 1e-6
        assert simple.holes == exact.holes
    assert exact.moved(3, -2).exterior[0] == (exact.exterior[0][0] + 3, exact.exterior[0][1] - 2)


def test_parts_that_would_vanish_keep_their_outline_and_holes_are_left_out():
    mask = np.ones((9, 9), bool)
    mask[4, 4] = False
    (outline,) = part_outlines(mask)
    assert len(outline.simplified(2).holes) == 0
    (pixel,) = part_outlines(np.pad(np.ones((1, 1), bool), 3))
    assert pixel.simplified(50) == pixel


def test_lines_there_and_back_go_to_the_nearest_point():
    mask = np.zeros((10, 30), bool)
    mask[2:8, 1:10] = mask[2:8, 12:20] = mask[2:8, 22:28] = True
    first, second, third = (outline.exterior for outline in part_outlines(mask))
    joined = joined_xy([first, second, third])
    steps = [np.hypot(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in pairwise(joined)]
    assert sorted(steps)[:4] == [2, 2, 2, 2]
    assert np.array_equal(filled(joined, mask.shape), mask)
