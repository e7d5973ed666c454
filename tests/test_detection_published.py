"""A published folder is complete: MMDetection's own functions run it, wherever it is copied, as its README says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from PIL import Image

from pipeline.detection.config import published_config, read_detector
from pipeline.detection.predictor import build_predictor
from pipeline.detection.published import DetectorChoice, ModelCard, build_model, publish, read_published
from tests.detection_samples import CONFIGS, SMALL
from tests.tiny_detectors import CATEGORIES, FAMILIES, publish_tiny


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[(family, resized) for family in FAMILIES for resized in (False, True)])
def copied(request, tmp_path_factory) -> Path:
    """A published folder, copied; the first one is gone."""
    family, resized = request.param
    folder = publish_tiny(tmp_path_factory.mktemp("models") / family, family, resized=resized)
    return folder.rename(tmp_path_factory.mktemp("elsewhere") / "student")


def photo(path: Path) -> np.ndarray:
    cells = np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(cells).resize((70, 50), Image.Resampling.NEAREST))
    Image.fromarray(image).save(path)
    return image


@pytest.mark.slow
def test_mmdetection_finds_what_this_project_finds(copied, tmp_path):
    image = photo(tmp_path / "photo.png")
    (ours,) = build_predictor(DetectorChoice(copied, "cpu", "fp32", 1)).predict([image])
    assert len(ours) > 3
    model = init_detector(str(copied / "detector.py"), str(copied / "weights.pth"), device="cpu")
    assert model.dataset_meta["classes"] == ("three", "seven")
    assert type(model).__module__.startswith("mmdet.")
    for given in (str(tmp_path / "photo.png"), np.ascontiguousarray(image[..., ::-1])):
        theirs = inference_detector(model, given).pred_instances
        assert theirs.labels.tolist() == [each.label for each in ours]
        assert theirs.scores.tolist() == pytest.approx([each.ranking_score for each in ours], rel=1e-6)
        assert np.array_equal(theirs.masks.numpy(), [each.source.paint().mask for each in ours])


@pytest.mark.slow
def test_mmdetections_inferencer_runs_and_draws_it(copied, tmp_path):
    photo(tmp_path / "photo.png")
    inferencer = DetInferencer(
        str(copied / "detector.py"), str(copied / "weights.pth"), device="cpu", show_progress=False
    )
    found = inferencer(str(tmp_path / "photo.png"), out_dir=str(tmp_path / "out"), pred_score_thr=0.0)
    assert len(found["predictions"][0]["labels"]) > 3
    assert list((tmp_path / "out" / "vis").iterdir())


@pytest.mark.slow
def test_the_readme_says_what_runs_in_a_new_process_for_a_detector_with_our_backbone(tmp_path):
    detector = read_detector(CONFIGS / SMALL["MaskRCNN"], {})
    config = published_config(detector, CATEGORIES)
    card = ModelCard("s4m-detector", 1, "mine", "train-student", 7, CATEGORIES, {}, {})
    (tmp_path / "student").mkdir()
    publish(tmp_path / "student", build_model(config).state_dict(), config, card)
    shutil.copytree(tmp_path / "student", tmp_path / "copy")
    photo(tmp_path / "copy" / "photo.jpg")
    readme = (tmp_path / "copy" / "README.md").read_text()
    assert "Trained as `train-student` of the experiment `mine`, 7 iterations. Classes: three, seven." in readme
    assert "also needs this project" in readme
    (code,) = (each for each in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "init_detector" in each)
    program = f"{code}\nprint(model.dataset_meta['classes'], found.masks.dtype)"
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "copy", capture_output=True, text=True, check=False
    )
    assert "('three', 'seven') torch.bool" in told.stdout, told.stderr
    assert "COCO classes" not in told.stderr


def test_a_detector_of_mmdetections_parts_needs_nothing_of_this_project(copied):
    assert '"s4m.' in (copied / "detector.json").read_text()
    assert not re.search(r"s4m\.|pipeline\.", (copied / "detector.py").read_text())
    assert "needs nothing else" in (copied / "README.md").read_text()
    assert [each.name for each in read_published(copied).card.categories] == ["three", "seven"]
