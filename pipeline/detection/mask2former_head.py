"""Mask2Former's head, with weights of instances and ignored instances.

A query that is matched to an instance has the weight of the instance. A query without a match whose mask lies on an
ignored instance has weight 0. With all weights 1 and nothing ignored, losses are MMDetection's.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from mmcv.ops import point_sample
from mmdet.models.dense_heads import Mask2FormerHead as MMDetectionMask2FormerHead
from mmdet.models.utils import get_uncertain_point_coords_with_randomness
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F

from pipeline.detection.instances import IGNORED_SHARE, instance_weights, pixel_weights
from pipeline.detection.registry import MODELS

# Ignored masks are passed on in the meta information of images, which MMDetection gives to the making of targets.
_IGNORED_MASKS: Final = "ignored_masks"
MASKS_IN_ALL: Final = "masks_in_all"
"""Key in a sample's meta information: the number of masks to divide losses by. Default: the matched ones."""


@MODELS.register_module()
class Mask2FormerHead(MMDetectionMask2FormerHead):  # type: ignore[misc]
    """MMDetection's head for instances (no stuff), with weights of instances and ignored instances."""

    def loss(self, x: tuple[Tensor, ...], batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Return the losses of every decoder layer for the features of a batch, strides ascending."""
        all_cls_scores, all_mask_logits = self(x, batch_data_samples)
        truth = [sample.gt_instances for sample in batch_data_samples]
        batch_instances = self.preprocess_gt(truth, [None] * len(truth))
        metas = []
        for sample, prepared in zip(batch_data_samples, batch_instances, strict=True):
            prepared.weights = instance_weights(sample.gt_instances)
            of_pixels = pixel_weights(sample.gt_instances, prepared.masks.shape[-2:])
            if of_pixels is not None:
                prepared.pixel_weights = of_pixels
            metas.append(sample.metainfo | {_IGNORED_MASKS: _ignored_masks(sample, all_mask_logits[-1])})
        losses: dict[str, Tensor] = self.loss_by_feat(all_cls_scores, all_mask_logits, batch_instances, metas)
        return losses

    def masks_counted(self, sample: DetDataSample) -> int:
        """Return how many matched masks MMDetection counts for an image: at least one."""
        counted: int = max(1, min(len(sample.gt_instances), self.num_queries))
        return counted

    def _get_targets_single(
        self, cls_score: Tensor, mask_pred: Tensor, gt_instances: InstanceData, img_meta: dict[str, Any]
    ) -> tuple[Any, ...]:
        """Return MMDetection's targets of one image, and the weights of the pixels of mask targets, or None.

        Instances of weight 0 have no mask target.
        """
        labels, label_weights, mask_targets, mask_weights, pos_inds, neg_inds, sampled = super()._get_targets_single(
            cls_score, mask_pred, gt_instances, img_meta
        )
        weights = gt_instances.weights[sampled.pos_assigned_gt_inds]
        label_weights = label_weights.to(weights)
        label_weights[pos_inds] = weights
        label_weights[neg_inds[_on_ignored(mask_pred[neg_inds], img_meta[_IGNORED_MASKS])]] = 0
        mask_weights = mask_weights.to(weights)
        mask_weights[pos_inds] = weights
        of_pixels = None
        if "pixel_weights" in gt_instances:
            of_pixels = gt_instances.pixel_weights[sampled.pos_assigned_gt_inds][weights > 0]
        kept = mask_targets[weights > 0]
        return labels, label_weights, kept, mask_weights, pos_inds, neg_inds, sampled, of_pixels

    def _loss_by_feat_single(
        self,
        cls_scores: Tensor,
        mask_preds: Tensor,
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict[str, Any]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses of classes, masks and dice of one decoder layer.

        cls_scores: B x Q x classes + 1. mask_preds: logits B x Q x h x w. MMDetection's method, which this replaces,
        has no weights for masks.
        """
        labels, label_weights, mask_targets, mask_weights, matched, of_pixels = self.get_targets(
            list(cls_scores), list(mask_preds), batch_gt_instances, batch_img_metas
        )
        label, label_weight = torch.cat(labels), torch.cat(label_weights)
        class_weight = cls_scores.new_tensor(self.class_weight)[label]
        counted = class_weight[label_weight > 0].sum()
        loss_cls = self.loss_cls(cls_scores.flatten(0, 1), label, label_weight, avg_factor=counted)
        # Here MMDetection waits for all processes, for each layer: one without such images would never answer.
        masks_in_all = cls_scores.new_tensor([batch_img_metas[0].get(MASKS_IN_ALL, matched)]).clamp(min=1)
        weights = torch.stack(mask_weights)
        mask_logits = mask_preds[weights > 0].unsqueeze(1)
        if len(mask_logits) == 0:
            return loss_cls, mask_logits.sum(), mask_logits.sum()
        targets = torch.cat(mask_targets).unsqueeze(1).float()
        with torch.no_grad():
            points_xy = get_uncertain_point_coords_with_randomness(
                mask_logits, None, self.num_points, self.oversample_ratio, self.importance_sample_ratio
            )
            point_targets = point_sample(targets, points_xy).squeeze(1)
        point_logits = point_sample(mask_logits, points_xy).squeeze(1)
        weights = weights[weights > 0]
        of_points = _sampled_weights(of_pixels, mask_targets, points_xy)
        if of_points is None:
            loss_dice = self.loss_dice(point_logits, point_targets, weights, avg_factor=masks_in_all)
        else:
            losses = _weighted_dice(point_logits, point_targets, of_points, self.loss_dice.eps)
            loss_dice = self.loss_dice.loss_weight * (losses * weights).sum() / masks_in_all
        of_all = weights.repeat_interleave(self.num_points)
        loss_mask = self.loss_mask(
            point_logits.flatten(),
            point_targets.flatten(),
            of_all if of_points is None else of_all * of_points.flatten(),
            avg_factor=masks_in_all * self.num_points,
        )
        return loss_cls, loss_mask, loss_dice


def _sampled_weights(of_pixels: list[Tensor | None], mask_targets: list[Tensor], points_xy: Tensor) -> Tensor | None:
    """Return the weights of points (N, P), given those of each image's mask targets; None if all are 1."""
    if all(each is None for each in of_pixels):
        return None
    weights = [
        torch.ones_like(targets, dtype=torch.float32) if each is None else each
        for each, targets in zip(of_pixels, mask_targets, strict=True)
    ]
    # Beyond the image are the weights of its border, so that points there are not mixed with 0.
    sampled: Tensor = point_sample(torch.cat(weights).unsqueeze(1), points_xy, padding_mode="border").squeeze(1)
    return sampled


def _weighted_dice(logits: Tensor, targets: Tensor, weights: Tensor, eps: float) -> Tensor:
    """Return the dice loss of each mask from points (N, P) with weights, as Mask2Former's without them."""
    probabilities = logits.sigmoid()
    shared = 2 * (weights * probabilities * targets).sum(1)
    return 1 - (shared + eps) / ((weights * probabilities).sum(1) + (weights * targets).sum(1) + eps)


def _ignored_masks(sample: DetDataSample, mask_logits: Tensor) -> Tensor:
    """Return the ignored masks of an image (N x h x w, 0 to 1), at the size of predicted ones (... x h x w)."""
    size_hw = mask_logits.shape[-2:]
    if "ignored_instances" not in sample or len(sample.ignored_instances) == 0:
        return mask_logits.new_zeros(0, *size_hw)
    # MMDetection pads the masks of instances to the batch, not those of ignored ones.
    masks = sample.ignored_instances.masks.pad(sample.batch_input_shape)
    full = masks.to_tensor(dtype=torch.float32, device=mask_logits.device)
    return F.interpolate(full.unsqueeze(1), size_hw, mode="area").squeeze(1)


def _on_ignored(mask_logits: Tensor, ignored_masks: Tensor) -> Tensor:
    """Return which predicted masks (Q x h x w) lie inside an ignored one (N x h x w): bool (Q,)."""
    if len(ignored_masks) == 0 or len(mask_logits) == 0:
        return torch.zeros(len(mask_logits), dtype=torch.bool, device=mask_logits.device)
    inside = (mask_logits > 0).flatten(1).float()
    shared = inside @ ignored_masks.flatten(1).t()
    return shared.amax(dim=1) > IGNORED_SHARE * inside.sum(dim=1)
