"""Pixels about which masks disagree: noted by predict and refine, kept by composites, weighed in losses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.augment.composite import composite
from pipeline.augment.settings import AugmentSettings
from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.detection.composites import CroppedView, ShownInstance, composed_view
from pipeline.detection.instances import pixel_weights
from pipeline.detection.mask2former_head import _weighted_dice
from pipeline.detection.packing import sample_pipeline
from pipeline.detection.painted_masks import MeanMask, PaintedMask, Prediction
from pipeline.detection.prediction_labels import LabelLimits, labels_of_image
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask
from pipeline.masks.crop_mask import CropMask, disagreement
from pipeline.masks.run_lengths import decode_mask, encode_mask
from pipeline.masks.windows import whole_image
from pipeline.refinement.gate import Gate, make_gate
from pipeline.refinement.image import RefineInput, refine_images
from tests.detection_samples import FAMILIES, build, build_blind, gradients, images, instances, losses_of, sample
from tests.refinement_fake import ALL_PROMPTS, FakeEngine, mask_of, scene
from tests.test_augment_composite import BASE_GREY, DONOR_GREY, picture, rectangle, rng
from tests.test_detection_datasets import first, folder_of, stored

SIZE_HW = (40, 60)


def noted(labels: ImageLabels, index: int = 0) -> np.ndarray | None:
    rle = labels.uncertain_rle(labels.instances[index])
    return None if rle is None else decode_mask(rle)


def counts_of(mask: np.ndarray) -> bytes:
    return encode_mask(mask)["counts"]


# ---- noting them --------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [rectangle(SIZE_HW, 5, 5, 20, 20), rectangle(SIZE_HW, 40, 0, 60, 40)])
def test_masks_disagree_where_a_pixel_belongs_to_one_of_them(other):
    one = rectangle(SIZE_HW, 0, 0, 20, 10)
    np.testing.assert_array_equal(decode_mask(disagreement(encode_mask(one), encode_mask(other))), one ^ other)


def test_equal_masks_agree_everywhere():
    one = encode_mask(rectangle(SIZE_HW, 0, 0, 20, 10))
    assert not decode_mask(disagreement(one, one)).any()


@pytest.mark.parametrize("gate", [Gate(), Gate(thresholds=None)], ids=["SAM's mask", "the teacher's mask"])
def test_refinement_notes_where_sam_and_teacher_disagree_whichever_is_chosen(gate):
    image, taught_labels, truths, taught = scene()
    height, width = image.shape[:2]
    labels = ImageLabels.of_instances(1, "a.png", width, height, tuple(taught_labels))
    given = [RefineInput(image, labels)]
    plain = refine_images(given, FakeEngine(), ALL_PROMPTS, gate)[0].labels
    made = refine_images(given, FakeEngine(), ALL_PROMPTS, gate, note_uncertain=True)[0].labels
    sams = refine_images(given, FakeEngine(), ALL_PROMPTS, Gate())[0].labels
    assert [each.uncertain_counts for each in plain.instances] == [b"", b""]
    for index, teacher in enumerate(taught):
        np.testing.assert_array_equal(noted(made, index), mask_of(sams.instances[index]) ^ teacher)
        assert noted(made, index).any()
    assert replace(made, instances=tuple(replace(each, uncertain_counts=b"") for each in made.instances)) == plain
    assert len(truths) == 2


def test_refinement_adds_to_what_the_mirrored_teacher_doubts():
    image, taught_labels, _, _ = scene()
    height, width = image.shape[:2]
    doubted = np.zeros((height, width), bool)
    doubted[:3, :5] = True
    taught_labels[0] = replace(taught_labels[0], uncertain_counts=counts_of(doubted))
    dropped = replace(taught_labels[1], decision=Decision.DROPPED)
    labels = ImageLabels.of_instances(1, "a.png", width, height, (taught_labels[0], dropped))
    (made,) = refine_images([RefineInput(image, labels)], FakeEngine(), ALL_PROMPTS, Gate(), note_uncertain=True)
    assert noted(made.labels)[:3, :5].all()
    assert noted(made.labels)[3:].any()
    assert made.labels.instances[1].uncertain_counts == b""
    # A mask that SAM makes is not the one whose pixels were doubted.
    (plain,) = refine_images([RefineInput(image, labels)], FakeEngine(), ALL_PROMPTS, make_gate(ALL_PROMPTS))
    assert plain.labels.instances[0].decision is Decision.SAM
    assert plain.labels.instances[0].uncertain_counts == b""


class Painted:
    def __init__(self, mask: np.ndarray) -> None:
        self.probability = np.where(mask, 0.9, 0.1).astype(np.float32)

    def paint(self) -> PaintedMask:
        return PaintedMask(self.probability, 1 - self.probability, self.probability > 0.5, 0.5)


def test_a_label_of_two_masks_notes_where_they_differ():
    one, other = rectangle(SIZE_HW, 5, 5, 20, 20), rectangle(SIZE_HW, 7, 5, 22, 20)
    both = Prediction(0, 0.9, 0.9, False, (5.0, 5.0, 22.0, 20.0), MeanMask(Painted(one), Painted(other)))
    lone = replace(both, source=Painted(one))
    image, categories = CocoImage(1, "1.png", 60, 40), (CocoCategory(3, "three"),)
    labels = labels_of_image(image, [both, lone], categories, LabelLimits(0.5, 10, note_uncertain=True))
    np.testing.assert_array_equal(noted(labels, 0), one ^ other)
    assert noted(labels, 1) is None
    plain = labels_of_image(image, [both, lone], categories, LabelLimits(0.5, 10))
    assert [each.uncertain_counts for each in plain.instances] == [b"", b""]


# ---- keeping them -------------------------------------------------------------------------------


def uncertain_picture(mask: np.ndarray, uncertain: np.ndarray, category_id: int, grey: int):
    made = picture([mask], category_id, grey)
    label = replace(made.labels.instances[0], uncertain_counts=counts_of(uncertain))
    return replace(made, labels=replace(made.labels, instances=(label,)))


BASE_MASK, BASE_UNCERTAIN = rectangle(SIZE_HW, 0, 0, 20, 20), rectangle(SIZE_HW, 15, 0, 25, 20)
DONOR_MASK, DONOR_UNCERTAIN = rectangle(SIZE_HW, 10, 0, 30, 20), rectangle(SIZE_HW, 25, 0, 35, 20)


def test_composites_keep_what_is_not_covered_and_what_is_pasted():
    base = uncertain_picture(BASE_MASK, BASE_UNCERTAIN, 100, BASE_GREY)
    donor = uncertain_picture(DONOR_MASK, DONOR_UNCERTAIN, 200, DONOR_GREY)
    made = composite(base, donor, AugmentSettings(), rng()).labels
    np.testing.assert_array_equal(noted(made, 0), BASE_UNCERTAIN & ~DONOR_MASK)
    np.testing.assert_array_equal(noted(made, 1), DONOR_UNCERTAIN & DONOR_MASK)
    alone = composite(base, None, AugmentSettings(), rng()).labels
    np.testing.assert_array_equal(noted(alone), BASE_UNCERTAIN)
    pair = picture([BASE_MASK], 100, BASE_GREY), picture([DONOR_MASK], 200, DONOR_GREY)
    plain = composite(*pair, AugmentSettings(), rng())
    assert [noted(plain.labels, index) for index in range(2)] == [None, None]


def test_pixels_that_are_pasted_elsewhere_are_scaled_with_the_instance():
    donor = uncertain_picture(DONOR_MASK, rectangle(SIZE_HW, 10, 0, 20, 20), 200, DONOR_GREY)
    settings = AugmentSettings(placement="moved", scale=(0.5, 0.5), min_area_px=1.0)
    made = composite(picture([], 100, BASE_GREY), donor, settings, np.random.default_rng(2)).labels
    (label,) = made.instances
    mask, uncertain = made.mask(label), noted(made)
    assert (uncertain & ~mask).sum() == 0
    columns = np.flatnonzero(mask.any(axis=0))
    left = np.zeros_like(mask)
    left[:, columns[0] : columns[0] + 5] = True  # half of 10 columns of 20
    assert len(columns) == 10
    np.testing.assert_array_equal(uncertain, mask & left)


def test_views_are_pasted_with_their_pixels():
    settings = AugmentSettings(mode="on-the-fly", views=True)
    views = []
    for mask, uncertain, grey in ((BASE_MASK, BASE_UNCERTAIN, 10), (DONOR_MASK, DONOR_UNCERTAIN, 100)):
        label = label_from_mask(np.ones((100, 200), bool), 3, 0.9, Decision.SAM)
        window = whole_image(*SIZE_HW)
        shown = ShownInstance(label, CropMask.of_array(mask, window), CropMask.of_array(uncertain, window))
        labels = ImageLabels.of_instances(1, "1.png", 200, 100, ())
        views.append(CroppedView(np.full((*SIZE_HW, 3), grey, np.uint8), labels, (shown,)))
    made = composed_view(*views, settings, np.random.default_rng(0)).labels
    np.testing.assert_array_equal(noted(made, 0), BASE_UNCERTAIN & ~DONOR_MASK)
    np.testing.assert_array_equal(noted(made, 1), DONOR_UNCERTAIN & DONOR_MASK)


GEOMETRY = [
    {"type": "RandomResize", "scale": (90, 60), "ratio_range": (1.0, 1.0), "resize_type": "mmdet.Resize"},
    {"type": "mmdet.RandomFlip", "prob": 1.0},
    {"type": "mmdet.RandomCrop", "crop_size": (40, 50), "allow_negative_crop": True},
]


@pytest.mark.parametrize("geometry", [[], GEOMETRY], ids=["none", "resized, flipped, cropped"])
def test_pixels_move_with_the_masks_and_become_weights(tmp_path, geometry):
    """Uncertain pixels that are those of the mask stay so, and others keep their distance."""
    mask = rectangle(SIZE_HW, 10, 8, 50, 32)
    same = replace(label_from_mask(mask, 7, 0.9, Decision.SAM), uncertain_counts=counts_of(mask))
    none = label_from_mask(mask, 3, 0.8, Decision.SAM)
    dropped = replace(same, decision=Decision.DROPPED)
    folder = folder_of(tmp_path, [ImageLabels.of_instances(1, "1.png", 60, 40, (dropped, same, none))])
    pipeline = sample_pipeline(geometry, photometric=None)
    truth = stored(folder, pipeline, uncertain_pixel_weight=0.25)[first()]["data_samples"].gt_instances
    masks = truth.masks.masks.astype(bool)
    assert truth.labels.tolist() == [1, 0]
    assert truth.pixel_weights.dtype == torch.float16
    np.testing.assert_array_equal(truth.pixel_weights[0].numpy(), np.where(masks[0], 0.25, 1.0))
    assert (truth.pixel_weights[1] == 1).all()
    assert masks[0].any()
    assert not masks[0].all()
    plain = stored(folder, pipeline)[first()]["data_samples"].gt_instances
    assert "pixel_weights" not in plain
    np.testing.assert_array_equal(plain.masks.masks, truth.masks.masks)


def test_weights_are_1_in_the_padding_of_a_batch():
    truth = instances((8, 8, 30, 30))
    assert pixel_weights(truth, (64, 64)) is None
    truth.pixel_weights = torch.zeros(1, 60, 50, dtype=torch.float16)
    weights = pixel_weights(truth, (64, 64))
    assert weights is not None
    assert weights.dtype == torch.float32
    assert (weights[:, :60, :50] == 0).all()
    assert (weights.sum(), weights.shape) == (64 * 64 - 60 * 50, (1, 64, 64))


# ---- weighing them ------------------------------------------------------------------------------

ONE, OTHER = (8, 8, 30, 30), (34, 30, 60, 62)
MASK_LOSSES = {"MaskRCNN": ("loss_mask",), "Mask2Former": ("loss_mask", "loss_dice", "d0.loss_mask", "d0.loss_dice")}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def weighed(weights: float | np.ndarray, **settings):
    truth = instances(ONE, OTHER, **settings)
    truth.pixel_weights = torch.ones(2, 64, 64, dtype=torch.float16) * torch.as_tensor(weights, dtype=torch.float16)
    return truth


def test_with_all_weights_1_the_losses_are_as_without(family):
    plain = losses_of(build(family), images(1), [sample(instances(ONE, OTHER))])
    found = losses_of(build(family), images(1), [sample(weighed(1.0))])
    assert found.keys() == plain.keys()
    for name, loss in plain.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-6), name


@pytest.mark.slow
def test_half_the_weight_halves_the_mask_loss_and_no_other(family):
    plain = losses_of(build(family), images(1), [sample(instances(ONE, OTHER))])
    found = losses_of(build(family), images(1), [sample(weighed(0.5))])
    for name, loss in plain.items():
        # The dice loss is a ratio: with the same weight everywhere it stays.
        factor = 0.5 if name.endswith("loss_mask") else 1.0
        assert found[name].item() == pytest.approx(factor * loss.item(), rel=2e-3, abs=1e-5), name


@pytest.mark.slow
def test_pixels_of_weight_0_may_be_anything(family):
    """The gradients are the same to the last bit, whatever the mask is there."""
    found = []
    for value in (0, 1):
        truth = weighed(1.0)
        truth.pixel_weights[:, 40:, :] = 0
        truth.masks.masks[1, 44:, 34:60] = value
        detector = build_blind(family)
        found.append(gradients(detector, losses_of(detector, images(1), [sample(truth)])))
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


@pytest.mark.slow
def test_images_with_and_without_weights_train_together(family):
    truth = weighed(0.0)
    batch = [sample(each, source="pseudo") for each in (truth, instances(ONE), instances())]
    losses = losses_of(build(family), images(3), batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    whole = losses_of(build(family), images(3), [sample(instances(ONE, OTHER), source="pseudo"), *batch[1:]])
    for name in MASK_LOSSES[family]:
        assert 0 < losses[f"pseudo_{name}"].item() < whole[f"pseudo_{name}"].item()


def test_the_weighted_dice_is_mask2formers():
    head = build("Mask2Former").panoptic_head
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(3, 50, generator=generator), torch.rand(3, 50, generator=generator).round()
    expected = head.loss_dice(logits, targets, reduction_override="none")
    losses = head.loss_dice.loss_weight * _weighted_dice(logits, targets, torch.ones(3, 50), head.loss_dice.eps)
    torch.testing.assert_close(losses, expected)
    left_out = torch.cat([torch.ones(3, 30), torch.zeros(3, 20)], dim=1)
    part = head.loss_dice(logits[:, :30], targets[:, :30], reduction_override="none")
    losses = head.loss_dice.loss_weight * _weighted_dice(logits, targets, left_out, head.loss_dice.eps)
    torch.testing.assert_close(losses, part)
