"""The page on Python says what is so: its examples run, one after the other, and give what it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import s4m
from pipeline.labels.label_store import LabelStore
from tests.tiny_detectors import publish_tiny
from tests.tiny_training import training_experiment

PAGE = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """What the examples find in their folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    training_experiment(tmp_path)
    (tmp_path / "tiny.yaml").rename(tmp_path / "mine.yaml")
    shutil.copytree(tmp_path / "images", tmp_path / "photos")
    shutil.copy(tmp_path / "images/0001.png", tmp_path / "photo.png")
    shutil.copy(tmp_path / "images/0002.png", tmp_path / "other.png")
    height, width = np.asarray(Image.open(tmp_path / "photo.png")).shape[:2]
    masks = np.zeros((2, height, width), dtype=bool)
    masks[0, 10:30, 8:28] = masks[1, 20:40, 30:60] = True
    np.save(tmp_path / "masks.npy", masks)
    np.save(tmp_path / "probabilities.npy", np.where(masks, 0.9, 0.1).astype(np.float32))
    (tmp_path / "work/mine").mkdir(parents=True)
    publish_tiny(tmp_path / "work/mine/student", "mask_rcnn")
    return tmp_path


@pytest.mark.slow
def test_the_examples_run_in_order(folder, capsys):
    names: dict[str, Any] = {}
    masks, soft_masks, detector, whole_folder, run, opened, results, store = EXAMPLES
    for example in (masks, soft_masks):
        exec(example, names)
    assert names["refined"].masks.shape == names["masks"].shape == names["soft"].masks.shape
    assert len(names["found"]) == 1
    for example in (detector, whole_folder):
        exec(example, names)
    assert len(names["sharper"]) == len(names["found"]) > 0
    assert names["done"].counts["images"] == 6
    shutil.rmtree(folder / "work/mine/student")  # it stood in the place of the link to the one to be trained
    for example in (run, opened, results):
        exec(example, names)
    assert {"teacher AP", "student AP", "predict mask IoU", "refine mask IoU"} == names["figures"].keys()
    assert isinstance(names["labels"], LabelStore)
    assert names["page"] == Path("work/mine/report.html").absolute()
    assert (names["folder"] / "weights.pth").is_file()
    assert "train-student: done in" in capsys.readouterr().out
    exec(store.replace("labels.zarr", str(names["labels"].path)), names)
    assert Image.open(folder / "drawn.png").width > 1000


def test_the_page_names_every_public_call_and_every_property():
    shown = {"Experiment", "LoadedDetector", "Report"}  # what calls return
    for name in set(s4m.__all__) - shown:
        assert re.search(rf"`(s4m\.)?{name}\b", PAGE), name
    properties = {name for name, value in vars(s4m.Instances).items() if isinstance(value, property)}
    assert properties <= set(re.findall(r"`(\w+)`", PAGE))
