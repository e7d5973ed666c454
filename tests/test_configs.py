"""The configs that are shipped: experiments load, detectors are built by MMDetection."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.experiment.loading import load_experiment

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_is_valid(path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    experiment = load_experiment(path, (), {}, check_files=False)
    assert experiment.name == path.stem
    assert experiment.teacher.detector.is_file()


@pytest.mark.parametrize("path", sorted((CONFIGS / "detectors").glob("*.py")), ids=lambda path: path.stem)
def test_a_detector_trains_on_a_small_image(path):
    import torch
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.structures import InstanceData

    register_all_modules()
    model = MODELS.build(Config.fromfile(path).model)
    truth = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 48.0, 40.0]]),
        labels=torch.tensor([0]),
        masks=BitmapMasks(torch.ones(1, 64, 64).numpy(), 64, 64),
    )
    metainfo = {"img_shape": (64, 64), "pad_shape": (64, 64), "batch_input_shape": (64, 64), "scale_factor": (1.0, 1.0)}
    sample = DetDataSample(metainfo=metainfo, gt_instances=truth)
    losses = model.loss(torch.rand(1, 3, 64, 64), [sample])
    total = sum(part.sum() for value in losses.values() for part in (value if isinstance(value, list) else [value]))
    total.backward()
    assert torch.isfinite(total)
    assert any(parameter.grad is not None for parameter in model.backbone.parameters())
