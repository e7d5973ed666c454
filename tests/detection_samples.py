"""Tiny batches and detectors for the tests of pipeline.detection's models."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine import Config
from mmengine.structures import InstanceData

import pipeline.detection.registered  # noqa: F401
from pipeline.detection.config import model_config, read_detector

CONFIGS = Path(__file__).parent.parent / "configs" / "detectors"
SMALL = {"MaskRCNN": "mask_rcnn_small.py", "Mask2Former": "mask2former_small.py"}
FAMILIES = tuple(SMALL)
SIDE = 64
CLASSES = 3


def build(family, *, ours=True, **settings):
    """A small detector, of ours or MMDetection's own, with weights that depend on nothing but the family."""
    return deepcopy(_built(family, ours, tuple(settings.items())))


@cache
def _built(family, ours, settings):
    torch.manual_seed(0)
    model = model_config(read_detector(CONFIGS / SMALL[family], {"model.backbone.pretrained": False}), CLASSES)
    if not ours:
        model = as_mmdetection(model) | {"backbone": model["backbone"]}
    return MODELS.build(Config({"model": model | dict(settings)}).model).train()


def as_mmdetection(config):
    if isinstance(config, dict):
        return {key: as_mmdetection(value) for key, value in config.items()}
    if isinstance(config, list):
        return [as_mmdetection(value) for value in config]
    return config.removeprefix("s4m.") if isinstance(config, str) else config


def instances(*boxes_xyxy, labels=None, weights=None):
    """Instances whose masks fill their boxes but for a corner."""
    masks = np.zeros((len(boxes_xyxy), SIDE, SIDE), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes_xyxy, strict=True):
        mask[top:bottom, left:right] = 1
        mask[top : top + 4, left : left + 4] = 0
    data = InstanceData(
        bboxes=torch.tensor(boxes_xyxy, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels or [index % CLASSES for index in range(len(boxes_xyxy))], dtype=torch.int64),
        masks=BitmapMasks(masks, SIDE, SIDE),
    )
    if weights is not None:
        data.weights = torch.tensor(weights, dtype=torch.float32)
    return data


def sample(truth, *, source=None, ignored=None, **metainfo):
    size_hw = (SIDE, SIDE)
    known = {"ori_shape": size_hw, "img_shape": size_hw, "pad_shape": size_hw, "batch_input_shape": size_hw}
    data = DetDataSample(metainfo=known | ({} if source is None else {"source": source}) | metainfo)
    data.gt_instances = truth
    if ignored is not None:
        data.ignored_instances = ignored
    return data


def images(count, seed=0):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def losses_of(detector, inputs, samples, seed=0):
    """Losses by name, summed over levels; proposals and points are drawn from the seed."""
    torch.manual_seed(seed)
    return {
        name: sum(part.sum() for part in (value if isinstance(value, list) else [value]))
        for name, value in detector.loss(inputs, samples).items()
        if "loss" in name
    }


def gradients(detector, losses):
    """The gradient of all losses: tensors by parameter's name."""
    detector.zero_grad()
    sum(losses.values()).backward()
    return {
        name: None if parameter.grad is None else parameter.grad.clone()
        for name, parameter in detector.named_parameters()
        if parameter.requires_grad
    }


def build_blind(family: str):
    """A detector whose matches of queries to instances do not see masks, which their cost may not show then."""
    detector = build(family)
    if family == "Mask2Former":
        detector.panoptic_head.assigner.match_costs = detector.panoptic_head.assigner.match_costs[:1]
    return detector
