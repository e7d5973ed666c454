"""What refinement did, known without truth: figures, and warnings where they look like harm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from pipeline.refinement.effect import Effect, measure_effect
from tests.refinement_fake import disc
from tests.test_masks_roughness import steps
from tests.tiny_labels import tiny_store

GOOD = Effect(agreement=0.85, from_sam=100, beyond=2, rough_before=1.04, rough_after=1.07)


def label(mask, decision=Decision.TEACHER, agreement=None):
    return replace(label_from_mask(mask, 3, 0.9, decision), agreement=agreement)


def row(image_id, *instances):
    return ImageLabels.of_instances(image_id, f"{image_id}.png", 160, 120, instances)


def test_agreement_roughness_and_what_is_beyond_recognition_are_measured(tmp_path):
    smooth = disc(120, 160, 60, 60, 40)
    rough = steps(smooth, 8)[:120, :160]
    before = [row(1, label(smooth), label(smooth), label(smooth)), row(2, label(smooth, Decision.DROPPED))]
    after = [
        row(
            1,
            label(rough, Decision.SAM, 0.75),
            label(rough, Decision.SAM, 0.25),
            label(smooth, Decision.TEACHER, 0.2),  # the gate kept the teacher's mask
        ),
        row(2, label(smooth, Decision.DROPPED)),
        ImageLabels.of_failure(3, "3.png", "no such file"),
    ]
    before.append(ImageLabels.of_failure(3, "3.png", "no such file"))
    effect = measure_effect(tiny_store(tmp_path / "before", before), tiny_store(tmp_path / "after", after))
    assert effect.agreement == pytest.approx(0.4)
    assert (effect.from_sam, effect.beyond) == (2, 1)
    assert effect.rough_before == pytest.approx(1.0, abs=0.03)
    assert effect.rough_after is not None
    assert effect.rough_after > 1.1
    assert Effect.of_figures(effect.figures() | {"sam": 2, "images": 3}) == replace(
        effect,
        agreement=0.4,
        rough_before=round(effect.rough_before, 3),
        rough_after=round(effect.rough_after, 3),
    )


@pytest.mark.parametrize("rows", [[], [row(1)], [row(1, label(np.ones((120, 160), bool)))]])
def test_without_a_mask_of_sams_nothing_is_measured_and_nothing_warned_of(tmp_path, rows):
    effect = measure_effect(tiny_store(tmp_path / "before", rows), tiny_store(tmp_path / "after", rows))
    assert effect == Effect(None, 0, 0, None, None)
    assert effect.warning_lines() == []
    assert effect.figures() == {"changed beyond recognition": 0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"agreement": 0.54}, "their mean IoU is 0.54, less than 0.6"),
        (
            {"beyond": 16},
            "16 of 100 masks from SAM are changed beyond recognition (agreement below 0.5), more than",
        ),
        ({"rough_after": 1.4}, "the outlines became rough: 1.04 before, 1.40 after"),
    ],
)
def test_a_figure_that_looks_like_harm_is_warned_of(change, said):
    assert GOOD.warning_lines() == []
    first, remedy = replace(GOOD, **change).warning_lines()
    assert first.startswith("warning: ")
    assert said in first
    assert "refine.gate=calibrated" in remedy


def test_masks_that_were_rough_before_are_no_harm():
    assert replace(GOOD, rough_before=1.43, rough_after=1.5).warnings() == ()


def test_a_record_of_an_earlier_version_says_nothing():
    assert Effect.of_figures({"images": 3, "sam": 7}) is None
