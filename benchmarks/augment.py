"""Measure `composite` against MMDetection's CopyPaste, on the same images and masks.

    python -m benchmarks.augment [--height 512] [--width 1024] [--instances 20] [--images 8] [--rounds 5]

Each way in turn pastes every instance of each image, in place, into the next image. Stores and annotation files both
hold labels as COCO's run lengths, so every way starts from these. MMDetection's way is also measured with masks that
are decoded before and not encoded again. Prints a Markdown table of medians over rounds. MB are those of the
composites' pixels. Where other programs share the processor, use the CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from mmdet.datasets.transforms import CopyPaste
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.augment.augment_work import write_png
from pipeline.augment.composite import LabelledImage, composite
from pipeline.augment.settings import AugmentSettings
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask

IN_PLACE = AugmentSettings(min_area_px=0.0)
MOVED = AugmentSettings(min_area_px=0.0, placement="moved")
SOFT = AugmentSettings(min_area_px=0.0, edge_blend_px=4.0)


@dataclass
class Way:
    """One way to make a composite of two images, and its times, one per round."""

    name: str
    run: Callable[[int], object]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def time(self, images: int) -> None:
        """Make a composite with each image as the base."""
        wall, cpu = time.perf_counter(), time.process_time()
        for index in range(images):
            self.run(index)
        self.seconds.append((time.perf_counter() - wall) / images)
        self.cpu_seconds.append((time.process_time() - cpu) / images)


def draw_image(seed: int, height: int, width: int, instances: int) -> LabelledImage:
    """Return noise with ellipses as instances."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
    labels = []
    for _ in range(instances):
        mask = np.zeros((height, width), dtype=np.uint8)
        centre_xy = (int(rng.integers(width)), int(rng.integers(height)))
        radius_xy = tuple(int(radius) for radius in rng.uniform(0.02, 0.12, 2) * min(height, width) + 1)
        cv2.ellipse(mask, centre_xy, radius_xy, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        image[mask > 0] = rng.integers(0, 256, 3)
        labels.append(label_from_mask(mask > 0, 1, 0.9, Decision.SAM))
    return LabelledImage(image, ImageLabels.of_instances(seed, f"{seed}.png", width, height, tuple(labels)))


def mmdet_results(image: LabelledImage, masks: NDArray[np.uint8]) -> dict[str, object]:
    """Return an image as input of MMDetection's transforms."""
    labels = image.labels
    return {
        "img": image.image_rgb,
        "gt_bboxes": HorizontalBoxes(np.array([each.box_xyxy for each in labels.instances], dtype=np.float32)),
        "gt_bboxes_labels": np.array([each.category_id for each in labels.instances]),
        "gt_ignore_flags": np.zeros(len(labels.instances), dtype=bool),
        "gt_masks": BitmapMasks(masks, labels.height, labels.width),
    }


def decoded(image: LabelledImage) -> NDArray[np.uint8]:
    """Return all masks of an image, uint8 (N, height, width)."""
    return np.stack([coco_mask.decode(image.labels.rle(each)) for each in image.labels.instances])


def copy_paste(base: dict[str, object], donor: dict[str, object]) -> dict[str, object]:
    """Return MMDetection's composite with all instances."""
    made: dict[str, object] = CopyPaste(selected=False).transform({**base, "mix_results": [donor]})
    return made


def copy_paste_from_rle(base: LabelledImage, donor: LabelledImage) -> list[object]:
    """Return the masks of MMDetection's composite; decode the inputs from run lengths and encode the output."""
    made = copy_paste(mmdet_results(base, decoded(base)), mmdet_results(donor, decoded(donor)))
    masks = made["gt_masks"]
    assert isinstance(masks, BitmapMasks)
    return [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks.masks]


def make_ways(images: list[LabelledImage], folder: Path) -> list[Way]:
    """Return all ways, MMDetection's first."""
    dense = [decoded(image) for image in images]

    def ours(settings: AugmentSettings) -> Callable[[int], LabelledImage]:
        return lambda index: composite(images[index], images[index - 1], settings, np.random.default_rng(index))

    def theirs_decoded(index: int) -> object:
        base, donor = (mmdet_results(images[each], dense[each]) for each in (index, index - 1))
        return copy_paste(base, donor)

    def written(index: int) -> None:
        write_png(folder / f"{index}.png", ours(IN_PLACE)(index).image_rgb)

    return [
        Way("CopyPaste, RLE to RLE", lambda index: copy_paste_from_rle(images[index], images[index - 1])),
        Way("CopyPaste, masks decoded before", theirs_decoded),
        Way("composite", ours(IN_PLACE)),
        Way("composite, edge_blend_px 4", ours(SOFT)),
        Way("composite, moved", ours(MOVED)),
        Way("composite, written as PNG", written),
    ]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--instances", type=int, default=20, help="instances per image")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    images = [
        draw_image(seed, arguments.height, arguments.width, arguments.instances) for seed in range(arguments.images)
    ]
    megabytes = arguments.height * arguments.width * 3 / 1e6
    with TemporaryDirectory() as folder:
        ways = make_ways(images, Path(folder))
        for way in ways:
            way.run(0)  # warm up
        for _ in range(arguments.rounds):
            for way in ways:
                way.time(len(images))

    print(
        f"{arguments.width} x {arguments.height} px, {arguments.instances} instances per image, one process, "
        f"medians of {arguments.rounds} rounds of {arguments.images} composites\n"
    )
    print("| | ms/composite | CPU ms | composites/s | MB/s | times CopyPaste from RLE |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        seconds, cpu = statistics.median(way.seconds), statistics.median(way.cpu_seconds)
        faster = statistics.median(one / our for one, our in zip(ways[0].seconds, way.seconds, strict=True))
        print(
            f"| {way.name} | {seconds * 1e3:.1f} | {cpu * 1e3:.1f} | {1 / seconds:.1f} | {megabytes / seconds:.0f} "
            f"| {faster:.1f} |"
        )


if __name__ == "__main__":
    main()
