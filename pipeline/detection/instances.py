"""What our heads know of instances beyond MMDetection: how much each counts, and which are left out of judgement."""

from __future__ import annotations

from typing import Final

import torch
from mmengine.structures import InstanceData
from torch import Tensor

IGNORED_SHARE: Final = 0.5
"""A prediction lies on an ignored instance if more than this share of it is inside; then it is no negative."""


def instance_weights(instances: InstanceData) -> Tensor:
    """How much each instance counts, float32 (N,): its `weights`, or 1 where there are none."""
    if "weights" in instances:
        weights: Tensor = instances.weights.float()
        return weights
    return torch.ones(len(instances.labels), device=instances.labels.device)
