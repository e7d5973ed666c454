"""Measure what memory a training step takes on a CPU when its images are taken in parts (`compute.batch_parts`).

    python -m benchmarks.batch_parts [--detector configs/detectors/mask2former_small.py] [--images 16] [--side 256]

Each number of parts is measured in a process of its own: the memory at most during the first step, less that before
it. Half of the images are labelled, each with two instances; the weights are random. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine import Config
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData

import pipeline.detection.registered  # noqa: F401
from pipeline.detection.config import model_config, read_detector

PARTS: Final = (1, 2, 4, 8)
CLASSES: Final = 3


def labelled_image(index: int, images: int, side: int) -> DetDataSample:
    """Return the data sample of an image with two rectangles, labelled if it is of the first half."""
    boxes = torch.tensor([[0, 0, side // 3, side // 3], [side // 2, side // 2, side, side]])
    masks = np.zeros((len(boxes), side, side), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    size = dict.fromkeys(("ori_shape", "img_shape", "pad_shape", "batch_input_shape"), (side, side))
    source = "labelled" if 2 * index < images else "pseudo"
    sample = DetDataSample(metainfo={**size, "source": source})
    truth = BitmapMasks(masks, side, side)
    sample.gt_instances = InstanceData(bboxes=boxes.float(), labels=torch.arange(len(boxes)), masks=truth)
    return sample


def peak_mib() -> float:
    """Return the memory that this process has had at most, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured_step(detector: Path, images: int, side: int, parts: int) -> tuple[float, float]:
    """Return the MiB that a step adds, and its processor seconds."""
    torch.manual_seed(0)
    model: dict[str, Any] = model_config(read_detector(detector, {"model.backbone.pretrained": False}), CLASSES)
    built = MODELS.build(Config({"model": model | {"batch_parts": parts}}).model).train()
    data = {
        "inputs": [torch.randint(0, 256, (3, side, side), dtype=torch.uint8) for _ in range(images)],
        "data_samples": [labelled_image(index, images, side) for index in range(images)],
    }
    optimizer = OptimWrapper(torch.optim.SGD(built.parameters(), lr=1e-3))
    before, begun = peak_mib(), time.process_time()
    built.train_step(data, optimizer)
    return peak_mib() - before, time.process_time() - begun


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, default=Path("configs/detectors/mask2former_small.py"))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=256)
    arguments = parser.parse_args()
    print(f"{arguments.detector.stem}, {arguments.images} images of {arguments.side} px a step\n")
    print("| parts | MiB that a step adds | processor seconds |\n|---|---|---|")
    for parts in PARTS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            given = (arguments.detector, arguments.images, arguments.side, parts)
            added, seconds = pool.apply(measured_step, given)
        print(f"| {parts} | {added:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
