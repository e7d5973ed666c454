"""The choice among candidates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.utils.amg import calculate_stability_score

from pipeline.refinement.choice import choose, stability_score
from pipeline.refinement.geometry import LowresFrame
from pipeline.sam.frame import InputFrame
from pipeline.sam.prompt import Candidates

SQUARE = LowresFrame(64, 64, InputFrame(64, 32))


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
    wide = LowresFrame(32, 64, InputFrame(64, 32))
    in_padding = EXACT.copy()
    in_padding[20:] = True
    offered = candidates([SMALL, in_padding], [0.5, 0.5])
    teacher = EXACT.astype(np.float32)
    assert choose(offered, teacher, SQUARE, "agreement").soft_agreement < 0.7
    teacher[16:] = 0
    assert choose(offered, teacher, wide, "agreement").soft_agreement == 1


def test_stability_is_that_of_segment_anything():
    logits = np.random.default_rng(0).normal(0, 2, (20, 30)).astype(np.float32)
    expected = calculate_stability_score(torch.from_numpy(logits)[None], 0.0, 1.0)
    assert stability_score(logits) == pytest.approx(float(expected[0]))
    assert stability_score(np.full((4, 4), -9.0, np.float32)) == 0
