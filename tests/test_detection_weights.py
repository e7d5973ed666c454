"""Weights of other detectors and of backbones as a start."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.backbones import ResNet
from torch import nn
from torchvision.models import resnet18

from pipeline.detection.weights import start_from
from pipeline.errors import StageError


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(depth=18)
        self.head = nn.Linear(512, 3)


def test_torchvisions_weights_start_the_backbone():
    weights = resnet18(weights=None).state_dict()
    model = Detector()
    left = start_from(model, weights, "resnet18.pth")
    assert set(left) == {"head.weight", "head.bias"}
    own = model.backbone.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in weights.items() if not name.startswith("fc."))


def test_names_of_the_detector_go_before_names_of_its_backbone():
    other = Detector().state_dict() | {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    model = Detector()
    assert start_from(model, other, "other.pth") == ()
    assert torch.equal(model.backbone.conv1.weight, other["backbone.conv1.weight"])


def test_weights_that_fit_nowhere_are_refused():
    with pytest.raises(StageError, match=r"none\.pth: none of its 1 tensors fits the detector"):
        start_from(Detector(), {"fc.weight": torch.zeros(2)}, "none.pth")
