"""Measures how fast average precision is computed, against pycocotools, and that both give the same.

    OMP_NUM_THREADS=1 python -m benchmarks.evaluation --images 500

Detections are synthetic: wobbly outlines of 80 classes in images of 640x480, in sizes spread as COCO's are, 7 truths
and 100 detections an image, most of them shifted copies of truths. pycocotools' time is that of `evaluate` and
`accumulate` on what is in memory already; ours includes reading the detections from their store. Times are those of
the processor, so that a busy machine does not count. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.coco.model import CocoAnnotation, CocoCategory, CocoDataset, CocoImage
from pipeline.coco.reading import read_coco
from pipeline.coco.segmentation import encode_segmentation
from pipeline.coco.writing import write_coco
from pipeline.evaluation.models import MeasuredModel, measure_model
from pipeline.evaluation.results import Metrics
from pipeline.evaluation.settings import EvaluateSettings
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_mask

WIDTH, HEIGHT = 640, 480
CLASSES = 80
TRUTHS, DETECTIONS = 7, 100
COPIES = 60
MODEL = MeasuredModel("train-teacher", "teacher", 1, "detections.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset, store = make(Path(folder), options.images)
        print(table(dataset, store))


def make(folder: Path, count: int) -> tuple[CocoDataset, LabelStore]:
    """A dataset and a store of detections on its images."""
    rng = np.random.default_rng(0)
    images = [CocoImage(number, f"{number}.jpg", WIDTH, HEIGHT) for number in range(1, count + 1)]
    categories = [CocoCategory(number, f"category {number}") for number in range(1, CLASSES + 1)]
    annotations: list[CocoAnnotation] = []
    rows: list[ImageLabels] = []
    for image in images:
        truths = [(outline_mask(rng), int(rng.integers(1, CLASSES + 1))) for _ in range(TRUTHS)]
        for mask, category_id in truths:
            annotations.append(annotation(len(annotations) + 1, image.id, mask, category_id))
        found = tuple(detection(rng, truths, number < COPIES) for number in range(DETECTIONS))
        rows.append(ImageLabels.of_instances(image.id, image.file_name, WIDTH, HEIGHT, found))
    write_coco(folder / "truth.json", images, categories, annotations)
    write_label_store(folder / "labels.zarr", rows, categories, {})
    return read_coco(folder / "truth.json"), LabelStore.open(folder / "labels.zarr")


def outline_mask(rng: np.random.Generator) -> NDArray[np.bool_]:
    """A wobbly outline; half of them small, a few large."""
    radius = float(np.exp(rng.normal(3.3, 0.9)))
    centre_xy = rng.uniform((0, 0), (WIDTH, HEIGHT))
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    wobble = 1 + sum(rng.normal(0, 0.12) * np.sin(k * angles + rng.uniform(0, 6)) for k in (1, 2, 3, 5))
    radii = np.clip(radius, 4, 180) * wobble
    points_xy = centre_xy + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(canvas, [np.clip(points_xy, 0, (WIDTH - 1, HEIGHT - 1)).astype(np.int32)], 1)
    return canvas.astype(np.bool_)


def annotation(number: int, image_id: int, mask: NDArray[np.bool_], category_id: int) -> CocoAnnotation:
    """The truth of a mask."""
    label = label_from_mask(mask, category_id, 1.0, Decision.TEACHER)
    x0, y0, x1, y1 = label.box_xyxy
    segmentation = encode_segmentation({"size": [HEIGHT, WIDTH], "counts": label.rle_counts})
    return CocoAnnotation(number, image_id, category_id, (x0, y0, x1 - x0, y1 - y0), float(label.area), 0, segmentation)


def detection(rng: np.random.Generator, truths: list[tuple[NDArray[np.bool_], int]], is_copy: bool) -> InstanceLabel:
    """A shifted copy of a truth, half of them of its class; or anything."""
    if not is_copy:
        return label_from_mask(
            outline_mask(rng), int(rng.integers(1, CLASSES + 1)), rng.uniform() ** 3, Decision.TEACHER
        )
    mask, category_id = truths[int(rng.integers(len(truths)))]
    category_id = category_id if rng.uniform() < 0.5 else int(rng.integers(1, CLASSES + 1))
    moved = np.roll(mask, tuple(rng.integers(-4, 5, 2).tolist()), axis=(0, 1))
    return label_from_mask(moved, category_id, rng.uniform(), Decision.TEACHER)


def table(dataset: CocoDataset, store: LabelStore) -> str:
    """Times of both, and the largest difference between their figures."""
    begun = time.process_time()
    ours = measure_model(MODEL, store, dataset, EvaluateSettings(boundary=False))
    own_seconds = time.process_time() - begun
    begun = time.process_time()
    measure_model(MODEL, store, dataset, EvaluateSettings(boundary=True))
    boundary_seconds = time.process_time() - begun
    their_seconds, difference = 0.0, 0.0
    for kind, metrics in (("segm", ours.mask), ("bbox", ours.box)):
        seconds, theirs = pycocotools(dataset, store, kind)
        their_seconds += seconds
        difference = max(difference, *(abs(a - b) for a, b in zip(averages(metrics), theirs, strict=True)))
    lines = [
        ("images, detections", f"{len(store):,}, {store.attributes.instances:,}"),
        ("pycocotools, masks and boxes", f"{their_seconds:.1f} s"),
        ("s4m, masks and boxes", f"{own_seconds:.1f} s, {their_seconds / own_seconds:.1f} times as fast"),
        ("s4m, masks, boxes and boundaries", f"{boundary_seconds:.1f} s"),
        ("largest difference of a figure", f"{difference:.1e}"),
    ]
    return "\n".join(["| what | measured |", "|---|---:|", *(f"| {what} | {figure} |" for what, figure in lines)])


def averages(metrics: Metrics) -> list[float]:
    """AP, AP at 0.50 and 0.75, of small, medium and large, in pycocotools' order."""
    figures = msgspec.structs.asdict(metrics)
    return [figures[name] for name in ("ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large")]


def pycocotools(dataset: CocoDataset, store: LabelStore, kind: str) -> tuple[float, list[float]]:
    """Seconds that pycocotools takes, and its averages."""
    entries: list[dict[str, Any]] = []
    for labels in store:
        for each in labels.instances:
            x0, y0, x1, y1 = each.box_xyxy
            place = {"segmentation": labels.rle(each)} if kind == "segm" else {"bbox": [x0, y0, x1 - x0, y1 - y0]}
            entries.append({"image_id": labels.image_id, "category_id": each.category_id, "score": each.score, **place})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.path))
        evaluation = COCOeval(truth, truth.loadRes(entries), kind)
        begun = time.process_time()
        evaluation.evaluate()
        evaluation.accumulate()
        seconds = time.process_time() - begun
        evaluation.summarize()
    return seconds, evaluation.stats[:6].tolist()


if __name__ == "__main__":
    main()
