"""Measure how many images per second `predict` labels: `PredictWork`, from image files to rows with soft masks.

    python -m benchmarks.predict configs/detectors/NAME.py [--side 128] [--images 32] [--device cuda] [--batch 8]

The weights are random, so there are two extremes: with a lowest score of 1 no instance is kept, with 0 every image has
as many instances as its detector can give. A trained teacher lies between. Where other programs share the processor,
use the CPU time. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoCategory, CocoImage
from pipeline.coco.writing import write_coco
from pipeline.compute.shards import Shard
from pipeline.detection.config import published_config, read_detector
from pipeline.detection.predict_work import PredictWork
from pipeline.detection.prediction_labels import LabelLimits
from pipeline.detection.published import FORMAT, FORMAT_VERSION, DetectorChoice, ModelCard, build_model, publish

CATEGORIES = tuple(CocoCategory(number, f"class {number}") for number in range(1, 5))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("--side", type=int, default=128, help="pixels along each side of an image")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _publish(arguments.detector, folder / "model")
        _write_images(folder, arguments.side, arguments.images)
        print("| lowest score | mirror images | instances per image | images/s | CPU ms/image |\n|---|---|---|---|---|")
        for lowest, flip in ((1.0, False), (0.0, False), (0.0, True)):
            choice = DetectorChoice(folder / "model", arguments.device, "auto", arguments.batch, flip)
            work = PredictWork(
                folder / "images.json", ImageFolder(folder), folder / "shards", choice, LabelLimits(lowest, 100)
            )
            work.compute(Shard(0, (1,)))  # builds the model
            begun, cpu_begun = time.perf_counter(), time.process_time()
            rows = work.compute(Shard(0, tuple(range(1, arguments.images + 1))))
            seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
            instances = sum(len(row.instances) for row in rows) / len(rows)
            rate, cpu_ms = len(rows) / seconds, 1000 * cpu_seconds / len(rows)
            print(f"| {lowest:g} | {'yes' if flip else 'no'} | {instances:.0f} | {rate:.1f} | {cpu_ms:.0f} |")


def _publish(detector: Path, folder: Path) -> None:
    config = published_config(read_detector(detector, {}), CATEGORIES)
    folder.mkdir()
    card = ModelCard(FORMAT, FORMAT_VERSION, "benchmark", "train-teacher", 0, CATEGORIES, {}, {})
    publish(folder, build_model(config).state_dict(), config, card)


def _write_images(folder: Path, side: int, count: int) -> None:
    rng = np.random.default_rng(0)
    images = [CocoImage(number, f"{number}.png", side, side) for number in range(1, count + 1)]
    for image in images:
        coarse = Image.fromarray(rng.integers(0, 255, (side // 16, side // 16, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.NEAREST).save(folder / image.file_name)
    write_coco(folder / "images.json", images, CATEGORIES, None)


if __name__ == "__main__":
    main()
