"""Connected parts of masks, and their holes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from pipeline.masks.parts import best_supported_part, fill_holes, largest_part


def votes(mask, *places):
    rows = np.array([row for row, _ in places], np.intp)
    columns = np.array([column for _, column in places], np.intp)
    return mask, np.ones(len(places), np.float32), rows, columns


TWO_PARTS = np.zeros((9, 9), bool)
TWO_PARTS[0:2, 0:2] = True
TWO_PARTS[4:8, 4:8] = True


def test_the_component_with_the_votes_is_kept_else_the_largest():
    small = best_supported_part(*votes(TWO_PARTS, (0, 0), (1, 1), (8, 0)))
    assert small.sum() == 4
    assert small[:2, :2].all()
    for places in [[(5, 5)], [(8, 0)], []]:
        large = best_supported_part(*votes(TWO_PARTS, *places))
        assert large.sum() == 16
        assert large[4:8, 4:8].all()


def test_parts_that_touch_by_a_corner_are_one():
    corner = np.eye(4, dtype=bool)
    np.testing.assert_array_equal(best_supported_part(*votes(corner, (0, 0))), corner)


def test_nothing_stays_nothing():
    nothing = np.zeros((0, 0), bool)
    assert best_supported_part(*votes(nothing)).size == 0
    assert fill_holes(nothing).size == 0
    assert not best_supported_part(*votes(np.zeros((3, 3), bool))).any()


@settings(deadline=None)
@given(mask=hnp.arrays(bool, (7, 8)))
def test_holes_are_what_cannot_be_reached_from_outside(mask):
    filled = fill_holes(mask)
    np.testing.assert_array_equal(filled, ~flood(np.pad(~mask, 1, constant_values=True))[1:-1, 1:-1])


def flood(free):
    """What is reached from the corner over sides of free cells."""
    reached = np.zeros_like(free)
    reached[0, 0] = free[0, 0]
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= free
        if (grown == reached).all():
            return reached
        reached = grown


def test_the_largest_part_depends_on_what_joins_pixels():
    mask = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]], bool)
    np.testing.assert_array_equal(largest_part(mask), mask)
    by_sides = largest_part(mask, connectivity=4)
    assert by_sides.sum() == 3
    assert not by_sides[0].any()
    np.testing.assert_array_equal(largest_part(TWO_PARTS), best_supported_part(*votes(TWO_PARTS)))
