"""Weights of instances and ignored instances, which our heads add to MMDetection's."""

from __future__ import annotations

from typing import Final

import torch
from mmengine.structures import InstanceData
from torch import Tensor

IGNORED_SHARE: Final = 0.5
"""A prediction with more than this share inside an ignored instance is not a negative."""


def instance_weights(instances: InstanceData) -> Tensor:
    """Return the weight of each instance, float32 (N,): its `weights`, or 1 without them."""
    if "weights" in instances:
        weights: Tensor = instances.weights.float()
        return weights
    return torch.ones(len(instances.labels), device=instances.labels.device)
