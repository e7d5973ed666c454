"""Experiments on tiny images with a detector's results, for tests of the stage `refine`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.labels.label_store import LabelStore
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from stages.options import workspace
from stages.runner import run_stage
from tests.tiny_coco import write_json
from tests.tiny_experiment import make_experiment_files

SETTINGS = {"student": {"start": "scratch"}, "predict": {"results": "results.json", "score_threshold": 0.5}}


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def result(image_id: int, mask: np.ndarray, score: float = 0.9) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 3, "score": score, "segmentation": rle(mask)}


def box_mask(x0: int, y0: int, x1: int, y1: int, size_hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    mask = np.zeros(size_hw, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def noise(seed: int, size_hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size_hw, 3), dtype=np.uint8)


def many_images(count: int) -> dict[int, np.ndarray | bytes]:
    return {image_id: noise(image_id) for image_id in range(1, count + 1)}


def make_refinement(
    folder: Path, entries: list[dict[str, Any]], unlabelled: dict[int, np.ndarray | bytes] | None = None
) -> Path:
    """Write an experiment on images, given as pixels or as what their files hold, with results; gives its file."""
    images = folder / "unlabelled"
    images.mkdir(exist_ok=True)
    listed = []
    for image_id, pixels in (unlabelled or {1: np.full((48, 64, 3), 80, np.uint8)}).items():
        path = images / f"{image_id}.png"
        height, width = (48, 64) if isinstance(pixels, bytes) else pixels.shape[:2]
        if isinstance(pixels, bytes):
            path.write_bytes(pixels)
        else:
            Image.fromarray(pixels).save(path, compress_level=1)
        listed.append({"id": image_id, "file_name": path.name, "width": width, "height": height})
    write_json(folder / "unlabelled.json", {"images": listed})
    write_json(folder / "results.json", entries)
    data = {
        "labelled": {"annotations": "annotations.json", "images": "images"},
        "unlabelled": {"annotations": "unlabelled.json", "images": "unlabelled"},
    }
    make_experiment_files(folder)
    return make_experiment_files(folder, {"data": data, **SETTINGS})


def refine(path: Path, *overrides: str) -> LabelStore:
    """Run an experiment up to its refined labels."""
    experiment = load_experiment(path, overrides)
    for stage in ("split", "predict", "refine"):
        run_stage(experiment, stage, 1)
    return opened(experiment, "refine")


def opened(experiment: Experiment, key: str) -> LabelStore:
    return LabelStore.open(workspace(experiment).result(key) / LABELS)
