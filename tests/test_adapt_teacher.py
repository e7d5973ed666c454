"""The imitated teacher: masks as bad as asked for, the same for the same random numbers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pipeline.adaptation.imitated_teacher import (
    MOST_NOISE,
    SMALLEST_PX,
    imitated_label,
    noise_of_quality,
    teacher_probability,
)
from pipeline.labels.rows import Decision
from tests.refinement_fake import decoded, disc, iou

MASKS = [disc(96, 128, x, y, radius) for x, y, radius in ((40, 40, 20), (80, 50, 25), (100, 20, 9), (30, 70, 15))]


def mean_iou(noise: float, seed: int = 5) -> float:
    taught = [teacher_probability(mask, noise, np.random.default_rng([seed, i]))[0] for i, mask in enumerate(MASKS)]
    return float(np.mean([iou(each > 0.5, mask) for each, mask in zip(taught, MASKS, strict=True)]))


def test_more_noise_makes_a_worse_teacher():
    qualities = [np.mean([mean_iou(noise, seed) for seed in range(8)]) for noise in (0.0, 0.4, 0.8, 1.6)]
    assert qualities[0] > 0.93
    assert all(better > worse + 0.03 for better, worse in pairwise(qualities))


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [0.72, 0.86])
def test_the_noise_of_a_quality_gives_that_quality(wanted):
    noise = noise_of_quality(MASKS * 8, wanted, seed=3)
    found = [
        iou(teacher_probability(mask, noise, np.random.default_rng([3, i]))[0] > 0.5, mask)
        for i, mask in enumerate(MASKS * 8)
    ]
    assert np.mean(found) == pytest.approx(wanted, abs=0.02)


def test_qualities_that_cannot_be_reached_give_the_nearest():
    assert noise_of_quality(MASKS, 1.0, seed=0) == 0
    assert noise_of_quality(MASKS, 0.0, seed=0) == pytest.approx(MOST_NOISE, abs=0.05)


def test_a_label_has_the_mask_the_box_and_the_soft_mask_of_the_teacher():
    label = imitated_label(MASKS[0], 7, 0.5, np.random.default_rng(1))
    assert label is not None
    assert (label.category_id, label.decision) == (7, Decision.TEACHER)
    probability, _ = teacher_probability(MASKS[0], 0.5, np.random.default_rng(1))
    assert np.array_equal(decoded(label.rle_counts, 96, 128), probability > 0.5)
    assert label.soft_mask is not None
    assert label.soft_mask.codes.any()


def test_masks_of_few_pixels_are_left_out():
    small = np.zeros((96, 128), dtype=bool)
    small[10, 10 : 10 + SMALLEST_PX - 1] = True
    assert imitated_label(small, 1, 0.0, np.random.default_rng(0)) is None
