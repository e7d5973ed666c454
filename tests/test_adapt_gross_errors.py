"""Gross errors of imitated teachers: what is lost lies in the mask, what is added in the neighbour."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.adaptation.gross_errors import ADDED, LOST, SHARE, with_gross_errors
from tests.refinement_fake import disc

MASK = disc(96, 128, 50, 48, 20)
TOUCHING = disc(96, 128, 88, 48, 18)
FAR = disc(96, 128, 115, 80, 10)
EMPTY = np.zeros_like(MASK)


def drawn(noise: float, others=(), draws: int = 200) -> list[np.ndarray]:
    return [with_gross_errors(MASK, others, noise, np.random.default_rng(seed)) for seed in range(draws)]


def wrong(masks: list[np.ndarray]) -> list[np.ndarray]:
    return [mask for mask in masks if not np.array_equal(mask, MASK)]


@pytest.mark.parametrize(("noise", "share"), [(0.0, 0.0), (0.5, SHARE / 2), (1.0, SHARE), (3.0, SHARE)])
def test_a_worse_teacher_errs_more_often(noise, share):
    assert len(wrong(drawn(noise))) / 200 == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("others", [(), (FAR,), (EMPTY,), (MASK,)])
def test_without_a_neighbour_a_side_is_lost(others):
    for mask in wrong(drawn(1.0, others)):
        assert not (mask & ~MASK).any()
        lost = 1 - mask.sum() / MASK.sum()
        assert LOST[0] - 0.02 <= lost <= LOST[1] + 0.02


def test_what_is_added_is_the_near_part_of_the_nearest_neighbour():
    joined = [mask for mask in wrong(drawn(1.0, (FAR, TOUCHING))) if mask.sum() > MASK.sum()]
    assert 40 <= len(joined) <= 120
    for mask in joined:
        added = mask & ~MASK
        assert (mask & MASK).sum() == MASK.sum()
        assert not (added & ~TOUCHING).any()
        share = added.sum() / MASK.sum()
        assert ADDED[0] - 0.01 <= share <= ADDED[1] + 0.01
        left = TOUCHING & ~mask
        assert not left.any() or np.argwhere(added)[:, 1].mean() < np.argwhere(left)[:, 1].mean()


def test_the_mask_that_is_given_stays_as_it_is():
    before = MASK.copy()
    drawn(1.0, (TOUCHING,), draws=20)
    assert np.array_equal(MASK, before)


def test_a_mask_without_a_pixel_stays_as_it_is():
    for seed in range(5):
        assert not with_gross_errors(EMPTY, (MASK,), 1.0, np.random.default_rng(seed)).any()
