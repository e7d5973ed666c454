"""Weights of instances and ignored instances, in both families' heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmengine.structures import InstanceData

from pipeline.detection.mask2former_head import _on_ignored
from pipeline.detection.mask_rcnn_head import IgnoringAssigner
from pipeline.errors import StageError
from tests.detection_samples import FAMILIES, build, build_blind, gradients, images, instances, losses_of, sample

ONE, OTHER = (8, 8, 30, 30), (34, 30, 60, 62)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.slow
def test_losses_are_mmdetections_where_all_instances_count_alike(family):
    inputs = images(3)
    plain = [sample(instances(ONE, OTHER)), sample(instances(OTHER)), sample(instances())]
    weighed = [
        sample(instances(ONE, OTHER, weights=[1, 1]), ignored=instances()),
        sample(instances(OTHER, weights=[1]), source="labelled"),
        sample(instances(weights=[])),
    ]
    expected = losses_of(build(family, ours=False), inputs, plain)
    for samples in (plain, weighed):
        found = losses_of(build(family), inputs, samples)
        assert found.keys() == expected.keys()
        for name, loss in expected.items():
            assert found[name].item() == pytest.approx(loss.item(), rel=1e-6, abs=1e-6), name


def test_an_instance_of_weight_0_leaves_no_trace_in_masks_and_boxes(family):
    """Its mask may be anything: the gradients are the same to the last bit."""
    found = []
    for corner_px in (2, 20):
        truth = instances(ONE, OTHER, weights=[1, 0])
        truth.masks.masks[1, 30 : 30 + corner_px, 34:60] = 0
        detector = build_blind(family)
        found.append(gradients(detector, losses_of(detector, images(1), [sample(truth)])))
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


@pytest.mark.slow
def test_class_losses_of_an_instance_of_weight_0_vanish(family):
    """Its class may be anything."""
    found = []
    for label in (0, 2):
        detector = build(family)
        if family == "Mask2Former":
            detector.panoptic_head.assigner.match_costs = detector.panoptic_head.assigner.match_costs[1:]
        truth = instances(ONE, OTHER, labels=[1, label], weights=[1, 0])
        found.append(gradients(detector, losses_of(detector, images(1), [sample(truth)])))
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


@pytest.mark.slow
def test_half_a_weight_halves_what_a_lone_instance_costs(family):
    boxes_and_masks = {
        "MaskRCNN": ("loss_rpn_bbox", "loss_bbox", "loss_mask"),
        "Mask2Former": ("loss_mask", "loss_dice", "d0.loss_mask", "d0.loss_dice"),
    }[family]
    whole = losses_of(build(family), images(1), [sample(instances(ONE, weights=[1]))])
    half = losses_of(build(family), images(1), [sample(instances(ONE, weights=[0.5]))])
    for name in boxes_and_masks:
        assert half[name].item() == pytest.approx(whole[name].item() / 2, rel=1e-5), name


@pytest.mark.parametrize("kept", [(), (ONE,)], ids=["alone", "beside another"])
def test_priors_on_ignored_instances_are_no_background(kept):
    assigner = IgnoringAssigner(
        MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False)
    )
    priors = InstanceData(
        priors=torch.tensor([[8, 8, 30, 29], [34, 30, 60, 60], [40, 40, 50, 50], [0, 40, 20, 60]], dtype=torch.float32)
    )
    result = assigner.assign(priors, instances(*kept), instances(OTHER))
    assert result.gt_inds.tolist() == [len(kept), -1, -1, 0]


def test_a_prior_that_is_matched_stays_so_on_an_ignored_instance():
    assigner = IgnoringAssigner(MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.5))
    priors = InstanceData(priors=torch.tensor([ONE], dtype=torch.float32))
    assert assigner.assign(priors, instances(ONE), instances(ONE)).gt_inds.tolist() == [1]


def test_proposals_on_an_ignored_instance_cost_nothing():
    """Whatever the class scores of a proposal there, the losses of classes stay; without it they do not."""
    head = build("MaskRCNN").roi_head
    features = tuple(torch.randn(1, 64, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32, 64))

    def class_loss(proposal_xyxy, ignored):
        torch.manual_seed(0)
        boxes = torch.tensor([ONE, (2, 44, 20, 62), proposal_xyxy], dtype=torch.float32)
        losses = head.loss(features, [InstanceData(bboxes=boxes)], [sample(instances(ONE), ignored=ignored)])
        return losses["loss_cls"].item()

    here, there = (34, 30, 60, 60), (38, 34, 58, 61)
    assert class_loss(here, instances(OTHER)) == class_loss(there, instances(OTHER))
    assert class_loss(here, None) != class_loss(there, None)


def test_anchors_on_an_ignored_instance_cost_nothing():
    head = build("MaskRCNN").rpn_head
    everything = instances((0, 0, 64, 64))
    everything.bboxes = torch.tensor([[-99.0, -99.0, 163.0, 163.0]])  # anchors reach beyond the image
    features = tuple(torch.randn(1, 64, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32, 64))
    losses = head.loss(features, [sample(instances(), ignored=everything)])
    assert sum(losses["loss_rpn_cls"]).item() == 0
    assert sum(head.loss(features, [sample(instances())])["loss_rpn_cls"]).item() > 0


def test_queries_on_an_ignored_instance_are_not_judged():
    head = build("Mask2Former").panoptic_head
    logits = torch.full((1, 40, 16, 16), -5.0)
    logits[0, 3, 8:15, 9:15] = 5.0  # in OTHER
    logits[0, 4, 2:7, 2:7] = 5.0  # in neither
    meta = {"ignored_masks": torch.nn.functional.avg_pool2d(torch.from_numpy(instances(OTHER).masks.masks).float(), 4)}
    scores = torch.zeros(1, 40, 4)
    scores[0, 3, 0] = scores[0, 4, 0] = 4.0
    none = head.preprocess_gt([instances()], [None])
    none[0].weights = torch.ones(0)

    def class_loss(changed_query, meta):
        changed = scores.clone()
        changed[0, changed_query, 1] += 9.0
        return head._loss_by_feat_single(changed, logits, none, [meta])[0].item()

    nothing = {"ignored_masks": meta["ignored_masks"][:0]}
    base = head._loss_by_feat_single(scores, logits, none, [meta])[0].item()
    assert class_loss(3, meta) == base
    assert class_loss(4, meta) != base
    assert class_loss(3, nothing) != head._loss_by_feat_single(scores, logits, none, [nothing])[0].item()


def test_more_than_half_of_a_mask_must_be_inside():
    logits = torch.full((3, 8, 8), -1.0)
    logits[0, 0, :4] = logits[1, 0, 1:6] = 1.0  # half and more than half inside; the third is empty
    ignored = torch.zeros(1, 8, 8)
    ignored[0, 0, 2:8] = 1
    assert _on_ignored(logits, ignored).tolist() == [False, True, False]


@pytest.mark.parametrize("ignored", [None, instances((0, 0, 64, 64))], ids=["nothing", "all ignored"])
def test_images_without_instances_train_every_parameter(family, ignored):
    """Distributed training waits for the gradient of each."""
    detector = build(family)
    samples = [sample(instances(weights=[]), source="pseudo", ignored=ignored) for _ in range(2)]
    found = gradients(detector, losses_of(detector, images(2), samples))
    assert [name for name, gradient in found.items() if gradient is None] == []
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_instances_of_weight_0_alone_train_every_parameter(family):
    detector = build(family)
    found = gradients(detector, losses_of(detector, images(1), [sample(instances(ONE, OTHER, weights=[0, 0]))]))
    assert [name for name, gradient in found.items() if gradient is None] == []
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_ignored_masks_may_be_smaller_than_the_batch():
    """MMDetection pads the masks of instances only."""
    ignored = instances(ONE)
    ignored.masks = ignored.masks.crop(np.array([0, 0, 48, 40]))
    losses = losses_of(build("Mask2Former"), images(1), [sample(instances(OTHER), ignored=ignored)])
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_mask_loss_that_cannot_be_weighed_is_refused():

    head = build("MaskRCNN").roi_head
    with pytest.raises(StageError, match="DiceLoss"):
        head.init_mask_head(None, {"type": "FCNMaskHead", "loss_mask": {"type": "DiceLoss"}})
