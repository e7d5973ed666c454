"""Soft masks read on other grids, and soft masks made from binary ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.masks.logit_codes import LOGITS, PROBABILITIES, codes_of_bytes, encode_logits
from pipeline.masks.soft_masks import SoftMask, crop_probability, make_soft_mask, paint_soft_mask, soften
from pipeline.masks.windows import Window
from pipeline.refinement.geometry import LowresFrame
from pipeline.refinement.soft import VIEW_SIDE, soft_lowres, soft_view
from pipeline.sam.frame import InputFrame
from tests.refinement_fake import disc, encode


def soft_disc(height, width, x, y, radius):
    mask = disc(height, width, x, y, radius)
    probability = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), radius / 5)
    return make_soft_mask(probability, (x - radius, y - radius, x + radius, y + radius)), mask


@pytest.mark.parametrize(("height", "width", "radius"), [(40, 60, 9), (600, 400, 150), (200, 1500, 90)])
def test_view_shows_the_soft_mask_where_it_lies(height, width, radius):
    soft_mask, mask = soft_disc(height, width, width / 3, height / 2, radius)
    view = soft_view(soft_mask)
    assert max(view.probability.shape) <= VIEW_SIDE
    rows, columns = np.indices(view.probability.shape)
    points = view.points_xy(rows.ravel(), columns.ravel())
    truth = mask[points[:, 1].astype(int), points[:, 0].astype(int)]
    assert (truth == view.inside().ravel()).mean() > 0.96
    x0, y0, x1, y1 = view.box_xyxy(Window(0, 0, view.probability.shape[1], view.probability.shape[0]))
    np.testing.assert_allclose([x0, y0, x1, y1], soft_mask.crop_box_xyxy)


def test_small_views_have_cells_of_one_pixel():
    soft_mask, _ = soft_disc(40, 60, 20, 20, 9)
    view = soft_view(soft_mask)
    assert (view.cell_width, view.cell_height) == (1, 1)
    np.testing.assert_allclose(view.probability, crop_probability(soft_mask), atol=0.03)


@pytest.mark.parametrize(
    ("height", "width", "x", "y", "radius"),
    [(128, 128, 60, 70, 20), (300, 500, 250, 150, 90), (90, 30, 0, 45, 12), (77, 131, 131, 77, 40)],
)
def test_lowres_is_the_resized_full_map(height, width, x, y, radius):
    soft_mask, _ = soft_disc(height, width, x, y, radius)
    frame = LowresFrame(height, width, InputFrame(128, 64))
    lowres = soft_lowres(soft_mask, frame)
    full = paint_soft_mask(soft_mask, width, height)
    resized_height, resized_width = InputFrame(128, 64).resized_hw((height, width))
    padded = np.zeros((128, 128), np.float32)
    padded[:resized_height, :resized_width] = cv2.resize(
        full, (resized_width, resized_height), interpolation=cv2.INTER_AREA
    )
    expected = cv2.resize(padded, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(lowres - expected).mean() < 0.01
    content = frame.content
    inner = (slice(0, content.height - 1), slice(0, content.width - 1))  # padding cuts the last row and column
    disagree = (lowres[inner] > 0.5) != (expected[inner] > 0.5)
    assert disagree.sum() <= 0.04 * (expected > 0.5).sum()
    assert not lowres[content.height :].any()
    assert not lowres[:, content.width :].any()


def test_lowres_of_a_part_that_the_picture_does_not_show_is_cut_off():
    soft_mask, _ = soft_disc(100, 100, 50, 50, 20)
    frame = LowresFrame(100, 100, InputFrame(128, 64))
    whole = soft_lowres(soft_mask, frame)
    # Multiples of the low-resolution pixel, so that both sample at the same places.
    left = soft_lowres(soft_mask.moved(-50, -25), frame)
    np.testing.assert_allclose(left[:48, :32], whole[16:, 32:], atol=0.02)
    gone = soft_lowres(soft_mask.moved(500, 0), frame)
    assert not gone.any()


@pytest.mark.parametrize("box", [(3, 4, 4, 5), (0, 0, 50, 40), (0, 10, 8, 40), (12, 3, 30, 38)])
def test_softened_masks_are_the_mask_above_a_half(box):
    mask = np.zeros((40, 50), bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = True
    soft_mask = soften(encode(mask))
    painted = paint_soft_mask(soft_mask, 50, 40)
    assert ((painted > 0.5) != mask).sum() <= 0.1 * mask.sum()
    if not mask.all():
        outside = painted[~mask]
        assert 0 < outside.max() < 0.55
        assert outside.min() < 0.05


@pytest.mark.parametrize("radius", [100, 700])
def test_large_masks_are_softened_as_well(radius):
    mask = disc(1_000, 1_400, 650, 500, radius)
    view = soft_view(soften(encode(mask)))
    rows, columns = np.indices(view.probability.shape)
    points = view.points_xy(rows.ravel(), columns.ravel())
    truth = mask[points[:, 1].astype(int), points[:, 0].astype(int)]
    assert (truth == view.inside().ravel()).mean() > 0.98
    assert view.probability[0, 0] < 0.1


def test_softened_probability_falls_with_the_distance_to_the_outline():
    mask = disc(80, 80, 40, 40, 15)
    row = paint_soft_mask(soften(encode(mask)), 80, 80)[40, 40:62]
    assert (np.diff(row) <= 0.01).all()
    assert row[0] > 0.95
    assert row[-1] < 0.05


def test_a_soft_mask_that_never_reaches_a_half_still_has_an_inside():
    faint = np.zeros((64, 64), np.uint8)
    faint[20:40, 20:40] = 90
    faint[10:20, 10:20] = 30
    inside = soft_view(SoftMask((0, 0, 64, 64), codes_of_bytes(faint))).inside()
    np.testing.assert_array_equal(inside, faint == 90)
    assert not soft_view(SoftMask((0, 0, 64, 64), np.zeros((64, 64), np.uint8))).inside().any()


def test_logits_survive_in_eight_bits():
    logits = np.linspace(-16, 16, 3_201, dtype=np.float32)
    found = LOGITS[encode_logits(logits)]
    error = np.abs(found - logits)
    for most, limit in ((1, 0.02), (8, 0.12), (12, 0.21), (16, 0.33)):
        assert error[np.abs(logits) <= most].max() < limit
    certain = np.abs(logits) > 0.02
    assert np.array_equal((found > 0)[certain], (logits > 0)[certain])
    assert np.array_equal(encode_logits(LOGITS), np.arange(256))
    assert (PROBABILITIES[0], PROBABILITIES[255]) == (0, 1)
    assert LOGITS[encode_logits(np.array([-40, 40], np.float32))].tolist() == [-16, 16]


def test_probabilities_in_eight_bits_stay_what_they_were():
    stored = np.arange(256, dtype=np.uint8)
    codes = codes_of_bytes(stored)
    assert np.abs(PROBABILITIES[codes] - stored / np.float32(255)).max() < 0.0045
    assert (np.diff(codes.astype(int)) >= 0).all()
    assert np.array_equal(codes > 127, stored > 127)
    assert codes[0] == 0
    assert LOGITS[codes[255]] == pytest.approx(6.2, abs=0.15)  # a step is 0.16 there


@pytest.mark.parametrize("side", [40, 64, 300])
def test_large_logits_of_a_detector_survive_being_stored(side):
    logits = np.full((side, side), -11.0)
    logits[side // 4 : -side // 4, side // 4 : -side // 4] = 13
    probability, complement = ((1 / (1 + np.exp(sign * logits))).astype(np.float32) for sign in (-1, 1))
    soft_mask = make_soft_mask(probability, (0, 0, side, side), complement)
    view = soft_view(soft_mask)
    rows, columns = view.logits.shape
    for shown in (soft_mask.logits[[2, 32], [2, 32]], view.logits[[2, rows // 2], [2, columns // 2]]):
        assert shown == pytest.approx([-11, 13], abs=0.25)
    np.testing.assert_array_equal(view.logits > 0, view.probability > 0.5)


def test_a_softened_mask_is_about_as_sure_all_over_its_inside():
    mask = disc(200, 200, 100, 100, 80)
    view = soft_view(soften(encode(mask)))
    inside = view.logits[view.inside()]
    assert 6 < inside.max() < 6.5  # at any depth: 80 pixels are 14 times the width of the edge
    weights = np.exp(inside.astype(np.float64))
    assert weights.max() / weights.sum() < 4 / len(weights)  # of cells far apart none is preferred
