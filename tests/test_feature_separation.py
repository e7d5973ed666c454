"""How well a detector's own features tell instances apart: features by hand, and those of real detectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.coco.reading import read_coco
from pipeline.compute.settings import ComputeSettings
from pipeline.detection.feature_separation import measure_features
from pipeline.detection.models import first_outputs
from pipeline.detection.predictor import Predictor
from pipeline.detection.published import build_published, read_published
from pipeline.structure.measuring import MEASURED_IMAGES, measured_positions
from pipeline.structure.settings import DistillSettings
from tests.tiny_coco import tiny_coco
from tests.tiny_detectors import FAMILIES, publish_tiny

COMPUTE = ComputeSettings(device="cpu", precision="fp32")
SETTINGS = DistillSettings(anchors=64)


@pytest.mark.parametrize("images", [0, 1, 15, 16, 17, 20, 31, 33, 400])
def test_measured_images_are_spread_over_all(images):
    chosen = measured_positions(images)
    assert len(chosen) == min(images, MEASURED_IMAGES)
    assert chosen == sorted(set(chosen))
    assert all(0 <= position < images for position in chosen)
    if images:
        gaps = np.diff([-1, *chosen, images])
        assert gaps.max() <= images / len(chosen) + 1


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return publish_tiny(tmp_path_factory.mktemp("models") / "mask_rcnn", "mask_rcnn")


def measured(detector, data, monkeypatch, features, settings=SETTINGS):
    """Measure with features of image after image in place of the detector's own; they fill half of their height."""
    given = iter(features)
    filled_xy = torch.tensor([1.0, 0.5])
    monkeypatch.setattr(Predictor, "structural_features", lambda *_: (next(given), filled_xy))
    return measure_features(detector, data.annotations, data.image_root, settings, COMPUTE)


def features_by_instance(data) -> list[torch.Tensor]:
    """Features as large as the image, which are one channel for each instance, the first above the others."""
    dataset = read_coco(data.annotations)
    found = []
    for image in dataset.images:
        masks = [dataset.mask(each) for each in dataset.instances(image.id)]
        owner = np.full((image.height, image.width), len(masks))
        for index in range(len(masks) - 1, -1, -1):
            owner[masks[index]] = index
        channels = np.eye(len(masks) + 1, dtype=np.float32)[owner].transpose(2, 0, 1)
        padding = np.zeros_like(channels)
        found.append(torch.from_numpy(np.concatenate([channels, padding], axis=1)).unsqueeze(0))
    return found


@pytest.mark.parametrize("cell_px", [None, 1.0 / 3 + 1])
def test_features_that_are_the_instances_tell_them_apart(tmp_path, monkeypatch, detector, cell_px):
    data = tiny_coco(tmp_path, images=2, instances=1, size=(128, 96))
    settings = DistillSettings(anchors=64, cell_px=cell_px)
    found = measured(detector, data, monkeypatch, features_by_instance(data), settings)
    assert found is not None
    assert found.area_under_curve > 0.99
    assert (found.inside, found.outside) == (pytest.approx(1, abs=0.05), pytest.approx(0, abs=0.05))
    assert found.anchors > 32


def test_features_that_are_noise_tell_nothing(tmp_path, monkeypatch, detector):
    data = tiny_coco(tmp_path, images=2)
    noise = torch.randn(2, 1, 8, 96, 64, generator=torch.Generator().manual_seed(0))
    found = measured(detector, data, monkeypatch, noise)
    assert found is not None
    assert 0.45 < found.area_under_curve < 0.6  # an anchor resembles itself


def test_what_cannot_be_measured_is_left_out(tmp_path, monkeypatch, detector):
    data = tiny_coco(tmp_path, images=2)
    features = features_by_instance(data)
    (data.image_root / "0001.png").write_bytes(b"no image")
    found = measured(detector, data, monkeypatch, features[1:])
    assert found is not None
    assert measured(detector, data, monkeypatch, [features[1] * float("nan")]) is None
    (data.image_root / "0002.png").unlink()
    assert measured(detector, data, monkeypatch, []) is None


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_features_are_those_that_the_loss_sees(tmp_path, family):
    folder = publish_tiny(tmp_path / family, family, resized=True)
    image_rgb = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    features, filled_xy = Predictor(read_published(folder), "cpu", "fp32", 1).structural_features(image_rgb)
    model = build_published(read_published(folder))
    module, stride = model.structural_features()
    with first_outputs(module) as outputs, torch.no_grad():
        data = model.data_preprocessor({"inputs": [resized(image_rgb)], "data_samples": None}, False)
        features_of_model = model.extract_feat(data["inputs"])
        if family == "mask2former":
            module(features_of_model)
    torch.testing.assert_close(features, outputs[0])
    # 96 x 69 pixels of an input that is padded to a multiple of 32.
    assert features.shape[2:] == (96 // stride, 96 // stride)
    assert filled_xy.tolist() == [1.0, pytest.approx(69 / 96)]


def resized(image_rgb: np.ndarray) -> torch.Tensor:
    import mmcv

    pixels_bgr = mmcv.imresize(np.ascontiguousarray(image_rgb[..., ::-1]), (96, 69))
    return torch.from_numpy(pixels_bgr.transpose(2, 0, 1).copy())
