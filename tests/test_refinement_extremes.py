"""Refinement of what is rare: tiny, huge, many, empty, broken."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.errors import ImageError
from pipeline.labels.rows import Decision, label_from_rle
from pipeline.masks.soft_masks import SoftMask
from pipeline.refinement.image import RefineInput
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.frame import InputFrame
from pipeline.sam.prompt import Candidates
from tests.refinement_fake import (
    ALL_PROMPTS,
    HEIGHT,
    WIDTH,
    FakeEngine,
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


def odd_masks():
    """Masks in an image of 40 x 50: one pixel, at a corner, along a border, all of it."""
    blank = np.zeros((40, 50), bool)
    pixel, corner, border = blank.copy(), blank.copy(), blank.copy()
    pixel[20, 30] = True
    corner[:6, :5] = True
    border[10:30, 44:] = True
    return {"pixel": pixel, "corner": corner, "border": border, "all": ~blank}


@pytest.mark.parametrize("name", ["pixel", "corner", "border", "all"])
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("zoom_below_px", [0, 16])
def test_odd_masks_come_back_whole(name, soft, zoom_below_px):
    truth = odd_masks()[name]
    image = paint(40, 50, [truth])
    settings = ALL_PROMPTS.model_copy(
        update={"zoom_below_px": zoom_below_px, "fill_holes": True, "largest_component": True}
    )
    engine = FakeEngine(InputFrame(256, 256))
    (each,) = refine([refine_input(image, [teacher_label(truth, soft=soft)])], settings, engine)[0]
    found = mask_of(each, 40, 50)
    assert each.decision is Decision.SAM
    assert iou(found, truth) >= 0.9


def test_probabilities_below_a_half_are_prompts_all_the_same():
    image, _, truths, _ = scene()
    faint = [teacher_label(truth, probability=0.3 * truth.astype(np.float32)) for truth in truths]
    for each, truth in zip(refine([refine_input(image, faint)])[0], truths, strict=True):
        assert iou(mask_of(each), truth) > 0.93


def test_an_instance_without_a_pixel_is_dropped_unasked():
    image, labels, _, _ = scene()
    empty = replace(labels[0], rle_counts=encode(np.zeros((HEIGHT, WIDTH)))["counts"], area=0, box_xyxy=(0, 0, 0, 0))
    engine = FakeEngine()
    refined = refine([refine_input(image, [empty, labels[1]])], RefineSettings(preset="s4m"), engine)[0]
    assert refined[0].decision is Decision.DROPPED
    assert refined[0].predicted_iou is None
    assert refined[1].decision is Decision.SAM
    assert len(engine.decoded_prompts[0]) == 1


@pytest.mark.slow
def test_hundreds_of_instances():
    boxes = [(3 + 20 * column, 4 + 20 * row) for row in range(15) for column in range(20)]
    labels, image = [], np.zeros((300, 400, 3), np.uint8)
    for index, (x, y) in enumerate(boxes):
        truth = np.zeros((300, 400), bool)
        truth[y : y + 12, x : x + 14] = True
        image[truth, 0] = 1 + index % 255
        labels.append(teacher_label(truth))
    engine = FakeEngine(InputFrame(256, 128))
    settings = RefineSettings(preset="s4m", points=2, separate=True, largest_component=True)
    refined = refine([refine_input(image, labels)], settings, engine)[0]
    assert len(refined) == 300
    for each, (x, y) in zip(refined, boxes, strict=True):
        assert each.decision is Decision.SAM
        np.testing.assert_allclose(each.box_xyxy, (x, y, x + 14, y + 12), atol=2)


@pytest.mark.slow
def test_a_huge_image_needs_memory_for_one_mask_not_for_all():
    height, width, count = 6_000, 8_000, 60
    image = np.zeros((height, width, 3), np.uint8)
    grid = np.zeros((64, 64), np.uint8)
    grid[16:48, 16:48] = 200
    labels = []
    for index in range(count):
        x, y = 100 + 120 * index, 100 + 90 * index
        image[y : y + 80, x : x + 100, 0] = index + 1
        rle = coco_mask.frPyObjects([[x, y, x + 100, y, x + 100, y + 80, x, y + 80]], height, width)[0]
        label = label_from_rle(rle, 1, 0.9, Decision.TEACHER)
        soft_mask = SoftMask((x - 50, y - 40, x + 150, y + 120), grid) if index else None
        labels.append(replace(label, soft_mask=soft_mask))
    inputs = [RefineInput(image, labels_of(labels, height, width))]
    settings = RefineSettings(
        preset="s4m", points=3, box="tight", separate=True, largest_component=True, zoom_below_px=16
    )
    tracemalloc.start()
    refined = refine(inputs, settings)[0]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(each.decision is Decision.SAM for each in refined)
    assert all(each.agreement > 0.8 for each in refined)
    # One dense mask takes 48 MB, the sixty of them 2,880.
    assert peak_bytes < 150e6


def test_a_mask_as_large_as_a_huge_image():
    height, width = 3_000, 4_000
    image = np.ones((height, width, 3), np.uint8)
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": [0, height * width]}, height, width)
    soft_mask = SoftMask((0, 0, width, height), np.full((64, 64), 200, np.uint8))
    label = replace(label_from_rle(rle, 1, 0.9, Decision.TEACHER), soft_mask=soft_mask)

    class AllOfIt(FakeEngine):
        def answer(self, numbers, prompt):
            return Candidates(np.full((3, 64, 64), 8, np.float32), np.full(3, 0.9, np.float32))

    inputs = [RefineInput(image, labels_of([label], height, width))]
    settings = ALL_PROMPTS.model_copy(update={"largest_component": True, "fill_holes": True})
    tracemalloc.start()
    (each,) = refine(inputs, settings, AllOfIt())[0]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert each.agreement == 1
    assert peak_bytes < 9 * height * width


def test_input_that_does_not_fit_is_refused():
    image, labels, _, _ = scene()
    with pytest.raises(ImageError, match=r"image 7 has pixels of shape \(10, 160, 3\)"):
        refine([RefineInput(image[:10], labels_of(labels, HEIGHT, WIDTH))])
    with pytest.raises(ImageError, match="float64"):
        refine([RefineInput(image / 255.0, labels_of(labels, HEIGHT, WIDTH))])
    with pytest.raises(ImageError, match="instance 1 has a score or a box that is not a number"):
        refine([refine_input(image, [labels[0], replace(labels[1], score=float("nan"))])])


@pytest.mark.parametrize("broken", ["logits", "estimate"])
def test_answers_that_are_not_numbers_are_refused(broken):
    class BrokenEngine(FakeEngine):
        def answer(self, numbers, prompt):
            answer = super().answer(numbers, prompt)
            array = answer.mask_logits_lowres if broken == "logits" else answer.predicted_iou
            array[...] = np.nan
            return answer

    image, labels, _, _ = scene()
    with pytest.raises(ImageError, match="instance 0 of image 7 is not a number"):
        refine([refine_input(image, labels)], engine=BrokenEngine())
