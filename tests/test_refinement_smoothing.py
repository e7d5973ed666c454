"""Masks without steps: SAM's logits are smoothed before they are enlarged."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.masks.roughness import roughness
from pipeline.masks.run_lengths import encode_mask
from pipeline.refinement.asking import MOST_LOGIT, smoothed
from pipeline.refinement.geometry import LowresFrame
from pipeline.refinement.presets import REFINE_PRESETS
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.frame import InputFrame
from tests.refinement_fake import disc

FRAME = LowresFrame(768, 1024, InputFrame(256, 64))


def lowres_disc(seed: int = 0) -> np.ndarray:
    """The logits of a disc as a decoder gives them: steep, each with an error of its own."""
    ys, xs = np.mgrid[:64, :64] + 0.5
    distance = 14 - np.hypot(xs - 30, ys - 22)
    noise = np.random.default_rng(seed).normal(0, 2.5, (64, 64))
    return np.clip(10 * distance + noise * (np.abs(distance) < 2), -20, 12).astype(np.float32)


def enlarged(logits: np.ndarray) -> np.ndarray:
    return FRAME.sam.full_logits(logits, (768, 1024), (0, 0, 1024, 768)) > 0


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize("seed", range(3))
def test_a_disc_stays_a_disc(seed):
    truth = disc(768, 1024, 30 * 16, 22 * 16, 14 * 16)
    before, after = (enlarged(smoothed(lowres_disc(seed), FRAME, cells)) for cells in (0, 0.5))
    rough_before, rough_after = (roughness(encode_mask(mask)) for mask in (before, after))
    assert rough_before is not None
    assert rough_after is not None
    assert rough_after - 1 < 0.7 * (rough_before - 1)
    assert iou(after, truth) >= iou(before, truth)


def test_it_is_a_gaussian_of_limited_logits_and_leaves_padding_alone():
    logits = lowres_disc() + 3
    given = logits.copy()
    result = smoothed(logits, FRAME, 0.5)
    np.testing.assert_array_equal(logits, given)
    shown = np.clip(logits[:48], -MOST_LOGIT, MOST_LOGIT)
    expected = cv2.GaussianBlur(shown, (5, 5), 0.5, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(result[:48], expected, atol=1e-5)
    np.testing.assert_array_equal(result[48:], logits[48:])
    assert result.dtype == np.float32


def test_zero_changes_nothing():
    logits = lowres_disc()
    assert smoothed(logits, FRAME, 0) is logits


def test_the_papers_presets_take_sams_masks_as_they_are():
    assert {name: RefineSettings(preset=name).smoothing_cells for name in REFINE_PRESETS} == {
        "best": 0.5,
        "s4m": 0,
        "samrefiner": 0,
    }
