"""Mask R-CNN's two heads, with weights of instances and ignored instances.

A prior (anchor or proposal) that is matched to an instance has the weight of the instance. A prior without a match that
lies on an ignored instance has weight 0. With all weights 1 and nothing ignored, losses are MMDetection's.
"""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import roi_align
from mmdet.models.dense_heads import RPNHead as MMDetectionRPNHead
from mmdet.models.roi_heads import StandardRoIHead as MMDetectionRoIHead
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet.models.task_modules.samplers import BaseSampler, SamplingResult
from mmdet.structures.bbox import bbox2roi, bbox_overlaps, get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F

from pipeline.detection.instances import IGNORED_SHARE, instance_weights, pixel_weights
from pipeline.detection.registry import MODELS
from pipeline.errors import StageError


class IgnoringAssigner:
    """An assigner that makes no prior on an ignored instance background.

    MMDetection's own rule (`ignore_iof_thr`) fails in images without instances, and also removes positives.
    """

    def __init__(self, assigner: BaseAssigner) -> None:
        self.assigner = assigner

    def assign(
        self, pred_instances: InstanceData, gt_instances: InstanceData, gt_instances_ignore: InstanceData | None = None
    ) -> AssignResult:
        """Match the priors: `gt_inds` is -1 for ignored, 0 for background, else the index of the instance + 1."""
        result = self.assigner.assign(pred_instances, gt_instances)
        if gt_instances_ignore is not None and len(gt_instances_ignore):
            priors_xyxy = get_box_tensor(pred_instances.priors)
            ignored_xyxy = get_box_tensor(gt_instances_ignore.bboxes)
            share_inside = bbox_overlaps(priors_xyxy, ignored_xyxy, mode="iof").amax(dim=1)
            result.gt_inds[(result.gt_inds == 0) & (share_inside > IGNORED_SHARE)] = -1
        return result


class WeightNotingSampler:
    """A sampler that adds the weight of each positive to its result (`pos_weights`)."""

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler

    def sample(
        self, assign_result: AssignResult, pred_instances: InstanceData, gt_instances: InstanceData, feats: list[Tensor]
    ) -> SamplingResult:
        """Return the sampler's own choice of positives and negatives, with weights."""
        result = self.sampler.sample(assign_result, pred_instances, gt_instances, feats=feats)
        result.pos_weights = instance_weights(gt_instances)[result.pos_assigned_gt_inds]
        return result


def _in_float32(results: dict[str, Tensor | None]) -> dict[str, Any]:
    return {name: value if value is None else value.float() for name, value in results.items()}


@MODELS.register_module()
class RPNHead(MMDetectionRPNHead):  # type: ignore[misc]
    """MMDetection's RPN head, with weights of instances and ignored instances."""

    assigner: BaseAssigner | IgnoringAssigner
    in_bf16 = False
    """Whether layers compute in bf16; results are float32."""

    def __init__(self, **head: Any) -> None:
        super().__init__(**head)
        if self.train_cfg:
            self.assigner = IgnoringAssigner(self.assigner)

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and boxes of one level."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.in_bf16):
            scores, boxes = super().forward_single(x)
        return scores.float(), boxes.float()

    def _get_targets_single(
        self,
        flat_anchors: Tensor,
        valid_flags: Tensor,
        gt_instances: InstanceData,
        img_meta: dict[str, Any],
        gt_instances_ignore: InstanceData | None = None,
        unmap_outputs: bool = True,
    ) -> tuple[Any, ...]:
        targets: tuple[Any, ...] = super()._get_targets_single(
            flat_anchors, valid_flags, gt_instances, img_meta, gt_instances_ignore, unmap_outputs
        )
        labels, label_weights, _, bbox_weights, _, _, sampled = targets
        # Sampled positives have the order of the anchors, as `labels` has.
        positive = labels < self.num_classes
        weights = instance_weights(gt_instances)[sampled.pos_assigned_gt_inds].to(label_weights)
        label_weights[positive] *= weights
        bbox_weights[positive] *= weights.unsqueeze(1)
        return targets


@MODELS.register_module()
class StandardRoIHead(MMDetectionRoIHead):  # type: ignore[misc]
    """MMDetection's RoI head, with weights of instances and ignored instances: any box head, masks by cross-entropy."""

    bbox_assigner: BaseAssigner | IgnoringAssigner
    bbox_sampler: BaseSampler | WeightNotingSampler
    in_bf16 = False
    """Whether layers compute in bf16; results are float32, and so is RoIAlign, which knows no bf16."""

    def _bbox_forward(self, x: tuple[Tensor, ...], rois: Tensor) -> dict[str, Any]:
        with torch.autocast(rois.device.type, torch.bfloat16, enabled=self.in_bf16):
            return _in_float32(super()._bbox_forward(x, rois))

    def _mask_forward(self, x: tuple[Tensor, ...], *regions: Tensor, **others: Tensor) -> dict[str, Any]:
        with torch.autocast(x[0].device.type, torch.bfloat16, enabled=self.in_bf16):
            return _in_float32(super()._mask_forward(x, *regions, **others))

    def init_assigner_sampler(self) -> None:
        """Build MMDetection's assigner and sampler, wrapped in ours."""
        super().init_assigner_sampler()
        if self.train_cfg:
            self.bbox_assigner = IgnoringAssigner(self.bbox_assigner)
            self.bbox_sampler = WeightNotingSampler(self.bbox_sampler)

    def init_mask_head(self, mask_roi_extractor: dict[str, Any] | None, mask_head: dict[str, Any]) -> None:
        """Build MMDetection's mask head. Raise StageError if its loss cannot be weighted."""
        super().init_mask_head(mask_roi_extractor, mask_head)
        if not getattr(self.mask_head.loss_mask, "use_mask", False):
            raise StageError(
                f"mask_head.loss_mask is {type(self.mask_head.loss_mask).__name__}; supported is "
                "dict(type='CrossEntropyLoss', use_mask=True)"
            )

    def bbox_loss(self, x: tuple[Tensor, ...], sampling_results: list[SamplingResult]) -> dict[str, Any]:
        """Return the results of the box head and, as `loss_bbox`, the losses of classes and boxes."""
        rois = bbox2roi([sampled.priors for sampled in sampling_results])
        results: dict[str, Any] = self._bbox_forward(x, rois)
        labels, label_weights, bbox_targets, bbox_weights = self.bbox_head.get_targets(sampling_results, self.train_cfg)
        # The positives of an image come before its negatives.
        weights = torch.cat(
            [F.pad(sampled.pos_weights, (0, len(sampled.neg_priors)), value=1.0) for sampled in sampling_results]
        ).to(label_weights)
        losses = self.bbox_head.loss(
            results["cls_score"],
            results["bbox_pred"],
            rois,
            labels,
            label_weights * weights,
            bbox_targets,
            bbox_weights * weights.unsqueeze(1),
        )
        # Without proposals MMDetection has no loss of classes; distributed training needs every parameter in a loss.
        losses.setdefault("loss_cls", results["cls_score"].sum())
        return results | {"loss_bbox": losses}

    def mask_loss(
        self,
        x: tuple[Tensor, ...],
        sampling_results: list[SamplingResult],
        bbox_feats: Tensor,
        batch_gt_instances: list[InstanceData],
    ) -> dict[str, Any]:
        """Return the results of the mask head and, as `loss_mask`, the loss of masks."""
        results: dict[str, Any] = self._mask_forward(x, bbox2roi([sampled.pos_priors for sampled in sampling_results]))
        mask_logits = results["mask_preds"]
        if len(mask_logits) == 0:
            return results | {"loss_mask": {"loss_mask": mask_logits.sum()}}
        targets = self.mask_head.get_targets(sampling_results, batch_gt_instances, self.train_cfg)
        labels = torch.cat([sampled.pos_gt_labels for sampled in sampling_results])
        weights = torch.cat([sampled.pos_weights for sampled in sampling_results])
        channels = torch.zeros_like(labels) if self.mask_head.class_agnostic else labels
        own_logits = mask_logits[torch.arange(len(labels), device=labels.device), channels]
        losses = F.binary_cross_entropy_with_logits(own_logits, targets, reduction="none")
        losses = losses * _cell_weights(sampling_results, batch_gt_instances, losses)
        loss = self.mask_head.loss_mask.loss_weight * (losses.mean(dim=(1, 2)) * weights).mean()
        return results | {"loss_mask": {"loss_mask": loss}}


def _cell_weights(
    sampling_results: list[SamplingResult], batch_gt_instances: list[InstanceData], losses: Tensor
) -> Tensor:
    """Return the mean weight of the pixels in each cell of each positive's mask, like losses (P, side, side)."""
    parts = []
    for sampled, instances in zip(sampling_results, batch_gt_instances, strict=True):
        boxes_xyxy = get_box_tensor(sampled.pos_priors)
        of_pixels = pixel_weights(instances, instances.masks.masks.shape[-2:]) if len(instances) else None
        if of_pixels is None or not len(boxes_xyxy):
            parts.append(losses.new_ones(len(boxes_xyxy), *losses.shape[1:]))
            continue
        rois = torch.cat([sampled.pos_assigned_gt_inds[:, None].to(boxes_xyxy), boxes_xyxy], dim=1)
        parts.append(roi_align(of_pixels[:, None], rois, losses.shape[1:], 1.0, 0, "avg", True)[:, 0])
    return torch.cat(parts)
