"""The choice among candidates, and the clean-up of the chosen one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from segment_anything.utils.amg import calculate_stability_score

from pipeline.refinement.choice import choose, soft_iou, stability_score
from pipeline.refinement.cleanup import best_component, fill_holes
from pipeline.refinement.geometry import LowresFrame
from pipeline.sam.prompt import Candidates

SQUARE = LowresFrame(64, 64, 64, 32)


def square(x0, x1):
    mask = np.zeros((32, 32), bool)
    mask[8:24, x0:x1] = True
    return mask


def candidates(masks, predicted_iou):
    logits = np.where(np.stack(masks), 6.0, -6.0).astype(np.float32)
    return Candidates(logits, np.array(predicted_iou, np.float32))


SMALL, EXACT, LARGE = square(8, 12), square(8, 24), square(4, 32)


@pytest.mark.parametrize(
    ("rule", "predicted_iou", "expected"),
    [
        ("predicted_iou", [0.9, 0.8, 0.7], 0),
        ("predicted_iou", [1.1, 1.3, 1.2], 1),  # estimates above 1 are ranked all the same
        ("agreement", [0.9, 0.1, 0.7], 1),
        ("product", [0.9, 0.8, 0.9], 1),
        ("product", [0.9, 0.05, 0.9], 2),
    ],
)
def test_rules(rule, predicted_iou, expected):
    offered = candidates([SMALL, EXACT, LARGE], predicted_iou)
    choice = choose(offered, EXACT.astype(np.float32), SQUARE, rule)
    assert choice.index == expected
    assert 0 <= choice.predicted_iou <= 1
    np.testing.assert_array_equal(choice.mask_logits_lowres, offered.mask_logits_lowres[expected])


def test_what_lies_in_the_padding_has_no_say():
    wide = LowresFrame(32, 64, 64, 32)
    in_padding = EXACT.copy()
    in_padding[20:] = True
    offered = candidates([SMALL, in_padding], [0.5, 0.5])
    teacher = EXACT.astype(np.float32)
    assert choose(offered, teacher, SQUARE, "agreement").soft_agreement < 0.7
    teacher[16:] = 0
    assert choose(offered, teacher, wide, "agreement").soft_agreement == 1


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


def test_stability_is_that_of_segment_anything():
    logits = np.random.default_rng(0).normal(0, 2, (20, 30)).astype(np.float32)
    expected = calculate_stability_score(torch.from_numpy(logits)[None], 0.0, 1.0)
    assert stability_score(logits) == pytest.approx(float(expected[0]))
    assert stability_score(np.full((4, 4), -9.0, np.float32)) == 0


def votes(mask, *places):
    rows = np.array([row for row, _ in places], np.intp)
    columns = np.array([column for _, column in places], np.intp)
    return mask, np.ones(len(places), np.float32), rows, columns


TWO_PARTS = np.zeros((9, 9), bool)
TWO_PARTS[0:2, 0:2] = True
TWO_PARTS[4:8, 4:8] = True


def test_the_component_with_the_votes_is_kept_else_the_largest():
    small = best_component(*votes(TWO_PARTS, (0, 0), (1, 1), (8, 0)))
    assert small.sum() == 4
    assert small[:2, :2].all()
    for places in [[(5, 5)], [(8, 0)], []]:
        large = best_component(*votes(TWO_PARTS, *places))
        assert large.sum() == 16
        assert large[4:8, 4:8].all()


def test_parts_that_touch_by_a_corner_are_one():
    corner = np.eye(4, dtype=bool)
    np.testing.assert_array_equal(best_component(*votes(corner, (0, 0))), corner)


def test_nothing_stays_nothing():
    nothing = np.zeros((0, 0), bool)
    assert best_component(*votes(nothing)).size == 0
    assert fill_holes(nothing).size == 0
    assert not best_component(*votes(np.zeros((3, 3), bool))).any()


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
