"""Prompts from soft masks."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.masks.logit_codes import log_odds
from pipeline.masks.soft_masks import make_soft_mask
from pipeline.refinement import prompts
from pipeline.refinement.geometry import LowresFrame
from pipeline.refinement.settings import RefineSettings
from pipeline.refinement.soft import SoftView, soft_view
from pipeline.sam.frame import InputFrame


def view_of(probability, x0=0.0, y0=0.0, cell=1.0):
    values = np.asarray(probability, np.float32)
    return SoftView(values, log_odds(values, 1 - values), x0, y0, cell, cell)


def block(shape, x0, y0, x1, y1, value=1.0):
    probability = np.zeros(shape, np.float32)
    probability[y0:y1, x0:x1] = value
    return probability


def rng(seed=0):
    return np.random.default_rng(seed)


def test_sampled_points_follow_the_softmax_of_the_logits():
    probability = np.zeros((4, 4), np.float32)
    probability[1, 1], probability[2, 3], probability[0, 0] = 0.9, 0.75, 0.4
    counts = {(1.5, 1.5): 0, (3.5, 2.5): 0}
    for seed in range(2_000):
        (point,) = prompts.sampled_points(view_of(probability), 1, rng(seed))
        counts[tuple(point.tolist())] += 1
    # Odds of 9 and 3: the softmax of the logits is 3 to 1; 5 standard deviations are allowed.
    assert counts[1.5, 1.5] / 2_000 == pytest.approx(0.75, abs=0.05)


def test_points_of_a_stored_soft_mask_follow_the_softmax_of_the_raw_logits():
    logits = np.full((64, 64), -12, np.float64)
    logits[20:40, 20:40] = 8
    logits[[24, 24, 35, 35], [24, 35, 24, 35]] = 12
    probability, complement = ((1 / (1 + np.exp(sign * logits))).astype(np.float32) for sign in (-1, 1))
    view = soft_view(make_soft_mask(probability, (0, 0, 64, 64), complement))
    peaks = {(column + 0.5, row + 0.5) for row, column in zip(*np.nonzero(logits == 12), strict=True)}
    draws = 2_000
    hits = 0
    for seed in range(draws):
        (point,) = prompts.sampled_points(view, 1, rng(seed))
        assert logits[int(point[1]), int(point[0])] > 0
        hits += tuple(point.tolist()) in peaks
    weights = np.exp(logits)
    expected = weights[logits == 12].sum() / weights.sum()
    assert 0.3 < expected < 0.4  # of the cells inside the peaks are one in a hundred
    # 4 standard deviations of the draws, and 3 % of the odds for the rounding of stored logits.
    assert hits / draws == pytest.approx(expected, abs=0.05)


def test_sampled_points_are_different_cells_inside():
    view = view_of(block((8, 8), 2, 3, 4, 5, 0.8), x0=100, y0=50, cell=2.0)
    points = prompts.sampled_points(view, 10, rng())
    expected = {(105.0, 57.0), (107.0, 57.0), (105.0, 59.0), (107.0, 59.0)}
    assert {tuple(point) for point in points.tolist()} == expected


def test_random_numbers_depend_on_seed_image_and_instance_alone():
    draws = {
        key: prompts.instance_rng(*key).random()
        for key in [(0, 1, 2), (1, 1, 2), (0, 2, 1), (0, 1, 3), (0, -1, 2), (0, 2**40 + 1, 2), (0, 2**63 - 1, 0)]
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[0, 1, 2] == prompts.instance_rng(0, 1, 2).random()


def test_center_point_lies_in_the_widest_part():
    probability = block((40, 60), 2, 18, 50, 21) + block((40, 60), 40, 10, 55, 25)
    (point,) = prompts.center_point(view_of(np.minimum(probability, 1)))
    assert 46 <= point[0] <= 49
    assert 16 <= point[1] <= 19


def test_center_point_keeps_away_from_the_border_of_the_crop():
    (point,) = prompts.center_point(view_of(np.ones((11, 21))))
    assert point[1] == 5.5
    assert 5 <= point[0] <= 16


def test_background_point_is_deep_in_the_background_of_the_box():
    probability = block((30, 30), 2, 2, 28, 28)
    probability[8:28, 8:28] = 0  # an L: the far corner of its box is the deepest background
    (point,) = prompts.background_point(view_of(probability))
    assert point.tolist() == [27.5, 27.5]


def test_a_mask_that_fills_its_box_has_no_background_point():
    assert prompts.background_point(view_of(block((9, 9), 2, 2, 7, 7))).shape == (0, 2)


def test_tight_box_is_the_outline_of_what_is_inside():
    view = view_of(block((10, 12), 3, 2, 9, 7) * 0.6, x0=20, y0=30, cell=2.0)
    assert prompts.tight_box(view).tolist() == [26, 34, 38, 44]


def test_elastic_box_grows_only_where_the_teacher_sees_more():
    probability = block((40, 40), 10, 10, 30, 30)
    probability[15:20, 30:33] = 0.3  # to the right, up to three columns
    probability[4:10, 15:20] = 0.05  # above, but hardly
    view = view_of(probability)
    assert prompts.elastic_box(view, 0.5).tolist() == [10, 10, 33, 30]
    assert prompts.elastic_box(view, 0.1).tolist() == [10, 10, 32, 30]
    assert prompts.elastic_box(view, 0.0).tolist() == prompts.tight_box(view).tolist()


def test_elastic_box_does_not_jump_over_a_gap():
    probability = block((40, 40), 10, 10, 30, 30)
    probability[15:20, 32:36] = 0.4
    assert prompts.elastic_box(view_of(probability), 1.0).tolist() == [10, 10, 30, 30]


def test_mask_logits_keep_the_mask_and_stay_within_the_scale_of_sam():
    probability = np.array([[0.0, 0.1, 0.5, 0.9, 1.0]], np.float32)
    logits = prompts.mask_logits(probability)
    assert (np.diff(logits) > 0).all()
    assert logits[0, 2] == pytest.approx(0, abs=1e-6)
    assert np.isfinite(logits).all()
    assert np.abs(logits).max() == prompts.MASK_LOGIT_LIMIT


def full_prompt(probability, **settings):
    frame = LowresFrame(40, 40, InputFrame(128, 64))
    lowres = np.zeros((64, 64), np.float32)
    return prompts.build_prompt(view_of(probability), lowres, frame, RefineSettings(preset="s4m", **settings), rng())


def test_build_prompt_gives_what_the_settings_ask_for():
    probability = block((40, 40), 5, 5, 35, 35)
    probability[12:35, 12:35] = 0
    only_points = full_prompt(probability, points=2)
    assert only_points.point_labels.tolist() == [1, 1]
    assert only_points.box_xyxy_full is None
    assert only_points.mask_logits_lowres is None
    everything = full_prompt(
        probability, points=3, center_point=True, background_point=True, box="tight", mask_prompt=True
    )
    assert everything.point_labels.tolist() == [1, 1, 1, 1, 0]
    assert everything.points_xy_full[4].tolist() == [34.0, 34.0]
    assert everything.box_xyxy_full.tolist() == [5, 5, 35, 35]
    assert everything.mask_logits_lowres.shape == (64, 64)
    elastic = full_prompt(probability, points=0, box="elastic")
    assert elastic.points_xy_full.shape == (0, 2)
    assert elastic.box_xyxy_full.dtype == np.float32


@pytest.mark.parametrize(
    "probability",
    [
        block((5, 5), 2, 2, 3, 3),  # one pixel
        block((5, 5), 1, 1, 3, 3, 0.2),  # never above a half
        np.ones((5, 5), np.float32),  # all of the crop
        block((9, 9), 0, 0, 4, 9),  # at the border
    ],
)
def test_every_prompt_exists_for_odd_masks(probability):
    prompt = full_prompt(
        probability, points=3, center_point=True, background_point=True, box="elastic", mask_prompt=True
    )
    assert len(prompt.points_xy_full) >= 2
    assert (prompt.point_labels == 1).all()
    rows, columns = prompt.points_xy_full[:, 1].astype(int), prompt.points_xy_full[:, 0].astype(int)
    assert (probability[rows, columns] > 0).all()
    assert prompt.box_xyxy_full[2] > prompt.box_xyxy_full[0]


def test_prompts_stay_within_the_picture():
    beyond = view_of(np.ones((60, 60)), -10, -10)
    frame = LowresFrame(40, 40, InputFrame(128, 64))
    settings = RefineSettings(preset="s4m", points=30, box="tight")
    prompt = prompts.build_prompt(beyond, np.zeros((64, 64), np.float32), frame, settings, rng())
    assert prompt.box_xyxy_full.tolist() == [0, 0, 40, 40]
    assert prompt.points_xy_full.min() >= 0
    assert prompt.points_xy_full.max() <= 39
