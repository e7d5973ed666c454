"""Refining images end to end, with a SAM that knows the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.labels.rows import Decision, ImageLabels
from pipeline.masks.soft_masks import SoftMask
from pipeline.refinement import asking
from pipeline.refinement.calibrate import GateSample
from pipeline.refinement.gate import Gate, Thresholds
from pipeline.refinement.image import RefineInput
from pipeline.refinement.samples import gate_samples
from pipeline.refinement.settings import RefineSettings
from tests.refinement_fake import (
    ALL_PROMPTS,
    HEIGHT,
    WIDTH,
    FakeEngine,
    disc,
    encode,
    iou,
    labels_of,
    mask_of,
    paint,
    refine,
    refine_input,
    scene,
    teacher_label,
)


@pytest.mark.parametrize(
    "settings",
    [
        RefineSettings(preset="s4m", points=3),
        RefineSettings(preset="s4m", points=0, center_point=True),
        RefineSettings(preset="s4m", points=0, box="tight"),
        RefineSettings(preset="s4m", points=0, box="elastic"),
        RefineSettings(preset="s4m", points=0, mask_prompt=True, passes=3),
        ALL_PROMPTS,
    ],
)
def test_every_prompt_finds_its_object(settings):
    image, labels, truths, taught = scene()
    refined = refine([refine_input(image, labels)], settings)[0]
    for each, label, truth, before in zip(refined, labels, truths, taught, strict=True):
        assert iou(mask_of(each), truth) > 0.93 > iou(before, truth)
        assert (each.category_id, each.score) == (label.category_id, label.score)
        assert each.decision is Decision.SAM
        assert each.candidate == 1
        assert each.predicted_iou == pytest.approx(0.9)
        assert each.soft_mask is None


def test_labels_describe_their_masks():
    image, labels, _, taught = scene()
    for each, before in zip(refine([refine_input(image, labels)])[0], taught, strict=True):
        rle = {"size": [HEIGHT, WIDTH], "counts": each.rle_counts}
        x, y, width, height = coco_mask.toBbox(rle)
        assert each.box_xyxy == (x, y, x + width, y + height)
        assert each.area == coco_mask.area(rle)
        assert each.agreement == pytest.approx(iou(mask_of(each), before))
        assert 0.8 < each.stability <= 1
        assert 0 <= each.gate_confidence <= 1


def test_results_do_not_depend_on_order_or_batch(monkeypatch):
    image, labels, _, _ = scene()
    inputs = [
        refine_input(image, labels, 1),
        refine_input(image[:, ::-1].copy(), [], 2),
        refine_input(image, labels, 3),
    ]
    settings = RefineSettings(preset="s4m", points=2, seed=5)
    together = refine(inputs, settings)
    assert [refine([each], settings)[0] for each in inputs] == together
    assert refine(inputs[::-1], settings)[::-1] == together
    monkeypatch.setattr(asking, "PROMPTS_AT_ONCE", 1)
    assert refine(inputs, settings) == together
    assert together[1] == []


def points_asked(settings, image_id=1):
    image, labels, _, _ = scene()
    engine = FakeEngine()
    refine([refine_input(image, labels, image_id)], settings, engine)
    return [prompt.points_xy_full.tolist() for _, prompt in engine.decoded_prompts[0]]


def test_points_are_drawn_by_seed_and_image():
    assert points_asked(RefineSettings(preset="s4m", seed=1)) == points_asked(RefineSettings(preset="s4m", seed=1))
    assert points_asked(RefineSettings(preset="s4m", seed=1)) != points_asked(RefineSettings(preset="s4m", seed=2))
    assert points_asked(RefineSettings(preset="s4m", seed=1), 1) != points_asked(
        RefineSettings(preset="s4m", seed=1), 2
    )


def test_images_are_encoded_once_and_each_pass_is_one_call():
    image, labels, _, _ = scene()
    engine = FakeEngine()
    settings = RefineSettings(preset="s4m", passes=3)
    refine(
        [refine_input(image, labels, 1), refine_input(image, [], 2), refine_input(image, labels, 3)], settings, engine
    )
    assert engine.encoded_shapes == [(HEIGHT, WIDTH)] * 2  # nothing is asked about the image without instances
    assert [[index for index, _ in asked] for asked in engine.decoded_prompts] == [[0, 0, 1, 1]] * 3
    first, second, _ = engine.decoded_prompts
    assert all(prompt.mask_logits_lowres is None for _, prompt in first)
    for (_, before), (_, after) in zip(first, second, strict=True):
        assert after.mask_logits_lowres.max() == 8  # the candidate chosen in the pass before
        np.testing.assert_array_equal(after.points_xy_full, before.points_xy_full)


def test_images_without_instances_need_no_sam():
    engine = FakeEngine()
    image = np.zeros((20, 30, 3), np.uint8)
    assert refine([refine_input(image, []), refine_input(image, [], 8)], engine=engine) == [[], []]
    assert refine([], engine=engine) == []
    assert engine.encoded_shapes == []


def test_the_gate_keeps_the_teachers_mask():
    image, labels, _, taught = scene()
    engine = FakeEngine(offset_px=30)  # SAM is beside the object
    settings = RefineSettings(preset="s4m", points=3, gate="fixed", min_agreement=0.6)
    refined = refine([refine_input(image, labels)], settings, engine)[0]
    for each, label, before in zip(refined, labels, taught, strict=True):
        assert each.decision is Decision.TEACHER
        np.testing.assert_array_equal(mask_of(each), before)
        assert each.box_xyxy == label.box_xyxy
        assert each.area == label.area
        assert each.agreement < 0.6
        assert each.candidate == 1


def test_the_gate_drops_what_neither_mask_is_believed_of():
    image, labels, _, taught = scene()
    settings = RefineSettings(preset="s4m", points=3, gate="fixed", drop_below_agreement=0.5)
    refined = refine([refine_input(image, labels)], settings, FakeEngine(offset_px=30))[0]
    for each, before in zip(refined, taught, strict=True):
        assert each.decision is Decision.DROPPED
        assert each.gate_confidence == 0
        np.testing.assert_array_equal(mask_of(each), before)  # its pixels are to be ignored


def test_where_sam_sees_nothing_the_teacher_stays():
    _, labels, _, taught = scene()
    blank = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    refined = refine([refine_input(blank, labels)], RefineSettings(preset="s4m", points=3, gate="none"))[0]
    for each, before in zip(refined, taught, strict=True):
        assert each.decision is Decision.TEACHER
        assert (each.agreement, each.stability) == (0, 0)
        np.testing.assert_array_equal(mask_of(each), before)


def test_binary_labels_from_elsewhere_are_refined_too():
    image, labels, truths, _ = scene()
    binary = [replace(label, soft_mask=None) for label in labels]
    blank = SoftMask((40, 40, 60, 60), np.zeros((64, 64), np.uint8))
    for instances in (binary, [replace(label, soft_mask=blank) for label in labels]):
        for each, truth in zip(refine([refine_input(image, instances)])[0], truths, strict=True):
            assert iou(mask_of(each), truth) > 0.93


@pytest.mark.parametrize("separate", [False, True])
def test_crowds_are_not_asked_about_and_stay_as_they_are(separate):
    image, labels, _, _ = scene()
    crowd = replace(labels[0], decision=Decision.DROPPED)
    engine = FakeEngine()
    settings = RefineSettings(points=3, separate=separate)
    first, *others = refine([refine_input(image, [crowd, *labels[1:]])], settings, engine)[0]
    assert first == replace(crowd, soft_mask=None)
    assert [each.decision for each in others] == [Decision.SAM] * (len(labels) - 1)
    asked = FakeEngine()
    assert refine([refine_input(image, [crowd])], settings, asked) == [[first]]
    assert asked.encoded_shapes == []


def test_clean_up_keeps_the_part_that_agrees_and_fills_holes():
    part, stray = disc(HEIGHT, WIDTH, 40, 60, 20), disc(HEIGHT, WIDTH, 120, 60, 30)
    hole = disc(HEIGHT, WIDTH, 40, 60, 6)
    image = paint(HEIGHT, WIDTH, [(part & ~hole) | stray])
    labels = [teacher_label(disc(HEIGHT, WIDTH, 42, 61, 18))]
    settings = RefineSettings(preset="s4m", points=0, box="tight", choice="predicted_iou")
    as_given = mask_of(refine([refine_input(image, labels)], settings)[0][0])
    assert iou(as_given, (part & ~hole) | stray) > 0.9
    cleaned = settings.model_copy(update={"largest_component": True, "fill_holes": True})
    result = mask_of(refine([refine_input(image, labels)], cleaned)[0][0])
    assert iou(result, part) > 0.93
    assert coco_mask.area(encode(result & stray)) == 0


def overlapping():
    truths = [disc(HEIGHT, WIDTH, 60, 60, 30), disc(HEIGHT, WIDTH, 95, 60, 30)]
    labels = [teacher_label(truths[0], score=0.7), teacher_label(truths[1], score=0.95)]
    return paint(HEIGHT, WIDTH, truths), labels


@pytest.mark.parametrize("gate", [Gate(), Gate(thresholds=None)])
def test_separate_gives_shared_pixels_to_the_higher_score(gate):
    image, labels = overlapping()
    settings = RefineSettings(preset="s4m", box="tight")
    engine = FakeEngine(predicted_iou=(0.1, 0.2, 0.9))  # the candidates that take in their neighbours' rims
    before = [mask_of(each) for each in refine([refine_input(image, labels)], settings, engine, gate)[0]]
    assert (before[0] & before[1]).any()
    separate = settings.model_copy(update={"separate": True})
    refined = refine([refine_input(image, labels)], separate, engine, gate)[0]
    after = [mask_of(each) for each in refined]
    np.testing.assert_array_equal(after[1], before[1])
    np.testing.assert_array_equal(after[0], before[0] & ~before[1])
    assert refined[0].area == after[0].sum()
    assert refined[0].box_xyxy[2] < labels[0].box_xyxy[2]


@pytest.mark.parametrize(("separate_by", "winner"), [("class", 1), ("mask", 0), ("product", 0)])
def test_separate_compares_the_score_that_is_asked_for(separate_by, winner):
    mask = disc(HEIGHT, WIDTH, 60, 60, 20)
    first = replace(teacher_label(mask, score=0.8), mask_score=0.9)
    second = replace(teacher_label(mask, score=0.9), mask_score=0.5)
    settings = RefineSettings(preset="s4m", points=3, separate=True, separate_by=separate_by)
    image = paint(HEIGHT, WIDTH, [mask])
    refined = refine([refine_input(image, [first, second])], settings)[0]
    assert refined[winner].decision is Decision.SAM
    assert refined[1 - winner].decision is Decision.DROPPED
    assert [each.mask_score for each in refined] == [0.9, 0.5]


def test_an_unknown_mask_score_counts_as_one():
    mask = disc(HEIGHT, WIDTH, 60, 60, 20)
    labels = [replace(teacher_label(mask, score=0.9), mask_score=0.99), teacher_label(mask, score=0.8)]
    settings = RefineSettings(preset="s4m", points=3, separate=True, separate_by="mask")
    first, second = refine([refine_input(paint(HEIGHT, WIDTH, [mask]), labels)], settings)[0]
    assert (first.decision, second.decision) == (Decision.DROPPED, Decision.SAM)
    assert second.mask_score is None


def test_an_instance_of_which_nothing_is_left_is_dropped():
    mask = disc(HEIGHT, WIDTH, 60, 60, 20)
    labels = [teacher_label(mask, score=0.8), teacher_label(mask, score=0.9)]
    settings = RefineSettings(preset="s4m", points=3, separate=True)
    first, second = refine([refine_input(paint(HEIGHT, WIDTH, [mask]), labels)], settings)[0]
    assert second.decision is Decision.SAM
    assert first.decision is Decision.DROPPED
    assert first.gate_confidence == 0
    np.testing.assert_array_equal(mask_of(first), mask_of(second))


def test_small_instances_are_refined_in_crops():
    height = width = 1024
    truths = [disc(height, width, 300, 300, 12), disc(height, width, 340, 310, 10), disc(height, width, 700, 600, 200)]
    image = paint(height, width, truths)
    labels = [
        teacher_label(disc(height, width, x, y, r)) for x, y, r in [(303, 301, 11), (338, 309, 11), (705, 600, 195)]
    ]
    flat = FakeEngine()
    coarse = refine([refine_input(image, labels)], engine=flat)[0]
    zoomed_engine = FakeEngine()
    settings = ALL_PROMPTS.model_copy(update={"zoom_below_px": 12})
    zoomed = refine([refine_input(image, labels)], settings, zoomed_engine)[0]
    assert flat.encoded_shapes == [(1024, 1024)]
    assert zoomed_engine.encoded_shapes == [(1024, 1024), (128, 128)]  # the neighbours share a crop
    for index in (0, 1):
        before = iou(mask_of(coarse[index], height, width), truths[index])
        assert iou(mask_of(zoomed[index], height, width), truths[index]) > max(0.9, before)
    assert zoomed[2] == coarse[2]


def test_gate_samples_compare_both_masks_with_the_truth():
    image, labels, truths, taught = scene()
    stranger = teacher_label(disc(HEIGHT, WIDTH, 20, 100, 8))
    given = labels_of([*labels, stranger], HEIGHT, WIDTH)
    refined = refine([RefineInput(image, given)])[0]
    samples = gate_samples(given, refined, [encode(truth) for truth in truths[::-1]])
    assert len(samples) == 2
    for sample, each, truth, before in zip(samples, refined, truths, taught, strict=False):
        assert isinstance(sample, GateSample)
        assert sample.teacher_iou == pytest.approx(iou(before, truth))
        assert sample.sam_iou == pytest.approx(iou(mask_of(each), truth))
        assert (sample.agreement, sample.stability) == (each.agreement, each.stability)
    nothing = refine([RefineInput(np.zeros_like(image), given)])[0]
    assert gate_samples(given, nothing, [encode(truth) for truth in truths]) == []


def test_the_gate_that_is_given_decides():
    image, labels, _, _ = scene()
    for gate, expected in [(Gate(), Decision.SAM), (Gate(Thresholds(min_predicted_iou=0.95)), Decision.TEACHER)]:
        refined = refine([refine_input(image, labels)], gate=gate)[0]
        assert {each.decision for each in refined} == {expected}


def test_labels_are_left_as_they_were():
    image, labels, _, _ = scene()
    given = labels_of(labels, HEIGHT, WIDTH)
    copy = ImageLabels(**{name: getattr(given, name) for name in given.__slots__})
    refine([RefineInput(image, given)])
    assert given == copy
