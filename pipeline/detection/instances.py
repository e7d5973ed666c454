"""Weights of instances and ignored instances, which our heads add to MMDetection's."""

from __future__ import annotations

from typing import Final

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional

IGNORED_SHARE: Final = 0.5
"""A prediction with more than this share inside an ignored instance is not a negative."""


def pixel_weights(instances: InstanceData, size_hw: tuple[int, int]) -> Tensor | None:
    """Return the weight of each pixel of each mask, float32 (N, *size_hw), 1 beyond the image; None if all are 1."""
    if "pixel_weights" not in instances:
        return None
    weights: Tensor = instances.pixel_weights.float()
    missing = (0, size_hw[1] - weights.shape[-1], 0, size_hw[0] - weights.shape[-2])
    return functional.pad(weights, missing, value=1.0)


def instance_weights(instances: InstanceData) -> Tensor:
    """Return the weight of each instance, float32 (N,): its `weights`, or 1 without them."""
    if "weights" in instances:
        weights: Tensor = instances.weights.float()
        return weights
    return torch.ones(len(instances.labels), device=instances.labels.device)
