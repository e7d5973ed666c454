"""Refinement with the real engine, on a small model of random weights, against segment_anything's own predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from segment_anything import SamPredictor

from pipeline.labels.rows import Decision
from pipeline.refinement.gate import Gate
from pipeline.refinement.geometry import LowresFrame
from pipeline.refinement.image import refine_images
from pipeline.refinement.prompts import build_prompt, instance_rng
from pipeline.refinement.settings import RefineSettings
from pipeline.refinement.soft import soft_lowres, soft_view
from pipeline.sam.engine import SamEngine
from pipeline.sam.frame import InputFrame
from pipeline.sam.tiny.model import build_sam_tiny
from tests.refinement_fake import decoded, disc, refine_input, teacher_label

HEIGHT, WIDTH = 90, 140


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(3)
    return build_sam_tiny().state_dict()


def given():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = [teacher_label(disc(HEIGHT, WIDTH, x, y, r)) for x, y, r in [(40, 40, 15), (100, 50, 30), (8, 80, 12)]]
    return refine_input(image, labels)


@pytest.mark.parametrize(
    "settings",
    [
        RefineSettings(preset="s4m", points=3),
        RefineSettings(preset="s4m", points=2, center_point=True, box="elastic", mask_prompt=True),
        RefineSettings(preset="s4m", points=0, box="tight"),
    ],
)
def test_masks_are_those_of_the_predictor(state, settings):
    (refined,) = refine_images([given()], SamEngine(build_sam_tiny(state=state), precision="fp32"), settings, Gate())
    predictor = SamPredictor(build_sam_tiny(state=state))
    predictor.set_image(given().image_rgb)
    frame = LowresFrame(HEIGHT, WIDTH, InputFrame(128, 64))
    for index, (label, each) in enumerate(zip(given().labels.instances, refined.labels.instances, strict=True)):
        lowres = soft_lowres(label.soft_mask, frame)
        prompt = build_prompt(soft_view(label.soft_mask), lowres, frame, settings, instance_rng(0, 7, index))
        has_points = len(prompt.point_labels) > 0
        masks, scores, _ = predictor.predict(
            point_coords=prompt.points_xy_full if has_points else None,
            point_labels=prompt.point_labels if has_points else None,
            box=prompt.box_xyxy_full,
            mask_input=None if prompt.mask_logits_lowres is None else prompt.mask_logits_lowres[None],
        )
        best = int(scores.argmax())
        assert each.candidate == best
        assert each.predicted_iou == pytest.approx(float(np.clip(scores[best], 0, 1)), abs=1e-4)
        found = decoded(each.rle_counts, HEIGHT, WIDTH)
        if each.decision is Decision.SAM:
            assert (found != masks[best]).mean() < 1e-3
        else:
            assert not masks[best].any()


def test_the_whole_of_it_runs_and_repeats(state):
    settings = RefineSettings(
        preset="s4m",
        points=3,
        center_point=True,
        background_point=True,
        box="elastic",
        mask_prompt=True,
        passes=3,
        choice="product",
        largest_component=True,
        fill_holes=True,
        separate=True,
        gate="fixed",
        zoom_below_px=24,
    )
    engine = SamEngine(build_sam_tiny(state=state), precision="fp32")
    first = refine_images([given()], engine, settings, Gate())
    again = refine_images([given()], engine, settings, Gate())
    assert first == again
    for each in first[0].labels.instances:
        rle = {"size": [HEIGHT, WIDTH], "counts": each.rle_counts}
        assert coco_mask.area(rle) == each.area > 0
        assert 0 <= each.gate_confidence <= 1
