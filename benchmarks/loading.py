"""Measure training samples from stored labels against MMDetection's CocoDataset, with the same images and geometry.

    python -m benchmarks.loading [--size 512] [--rows 2] [--columns 4] [--images 4] [--rounds 5]

Images are `rows` times `columns` tiles of generated shapes in one PNG; labels are run lengths in both. Each image is
read, resized by 0.5 to 1.5, cropped to 1024 x 512 and flipped, with the same random numbers in every way. A check
before the measurement requires the same pixels, boxes and masks from CocoDataset and StoredLabels. Further ways add
colour changes, and composites made on the fly (which read two images for one), of whole images and of views. One
process, the ways in turn. Prints a Markdown table of medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.registry import init_default_scope

from pipeline.augment.settings import AugmentSettings
from pipeline.coco.reading import read_coco
from pipeline.datasets.shapes import ShapesSettings, make_shapes
from pipeline.detection.composites import Composites
from pipeline.detection.datasets import StoredLabels
from pipeline.detection.packing import sample_pipeline
from pipeline.detection.sample_seed import Sample
from pipeline.files.images import read_image
from pipeline.labels.coco_export import export_dataset
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import Decision, ImageLabels, label_from_mask

STRONG = {"jitter": 0.8, "grey": 0.2, "blur": 0.5}


@dataclass
class Way:
    """One way to make the sample of an image, and its times, one per round."""

    name: str
    run: Callable[[int], dict[str, Any]]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def time(self, draws: range) -> None:
        """Make the samples of these draws."""
        wall, cpu = time.perf_counter(), time.process_time()
        for draw in draws:
            self.run(draw)
        self.seconds.append((time.perf_counter() - wall) / len(draws))
        self.cpu_seconds.append((time.process_time() - cpu) / len(draws))


def make_images(folder: Path, count: int, size: int, rows: int, columns: int) -> LabelStore:
    """Write images of `rows` times `columns` generated tiles; return the store of their labels."""
    tiles = count * rows * columns
    make_shapes(folder / "shapes", ShapesSettings(images=tiles, validation=1, image_size_px=size))
    dataset = read_coco(folder / "shapes" / "train.json")
    height, width = rows * size, columns * size
    labels = []
    for number in range(count):
        image = np.zeros((height, width, 3), dtype=np.uint8)
        instances = []
        for index in range(rows * columns):
            tile = dataset.images[number * rows * columns + index]
            y, x = (part * size for part in divmod(index, columns))
            image[y : y + size, x : x + size] = read_image(folder / "shapes" / "train" / "images" / tile.file_name)
            for annotation in dataset.annotations_by_image[tile.id]:
                mask = np.zeros((height, width), dtype=np.bool_)
                mask[y : y + size, x : x + size] = dataset.mask(annotation)
                instances.append(label_from_mask(mask, annotation.category_id, 0.9, Decision.SAM))
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
        labels.append(ImageLabels.of_instances(number, f"{number}.png", width, height, tuple(instances)))
    write_label_store(folder / "labels.zarr", labels, dataset.categories, {"made by": "benchmark"})
    store = LabelStore.open(folder / "labels.zarr")
    export_dataset(store, folder / "labels.json")
    return store


def geometry_for(width: int, height: int) -> list[dict[str, Any]]:
    """Return the transforms that resize, crop and flip, as in the training of detectors."""
    return [
        {
            "type": "RandomResize",
            "resize_type": "Resize",
            "scale": (width, height),
            "ratio_range": (0.5, 1.5),
            "keep_ratio": True,
        },
        {"type": "RandomCrop", "crop_size": (1024, 512), "allow_negative_crop": True, "recompute_bbox": True},
        {"type": "RandomFlip", "prob": 0.5},
    ]


def make_ways(folder: Path, store: LabelStore) -> list[Way]:
    """Return all ways, MMDetection's first."""
    geometry = geometry_for(store[0].width, store[0].height)
    theirs = CocoDataset(
        ann_file=str(folder / "labels.json"),
        data_prefix={"img": str(folder)},
        metainfo={"classes": tuple(category.name for category in store.attributes.categories)},
        pipeline=[
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
            *geometry,
            {"type": "PackDetInputs"},
        ],
    )

    def sample_of(draw: int) -> Sample:
        return Sample(0, draw % len(store), draw, 0)

    def mmdetection(draw: int) -> dict[str, Any]:
        sample = sample_of(draw)
        with sample.randomness():
            made: dict[str, Any] = theirs[sample.item]
        return made

    def ours(dataset: StoredLabels | Composites) -> Callable[[int], dict[str, Any]]:
        return lambda draw: dataset[sample_of(draw)]

    plain, strong = sample_pipeline(geometry, photometric=None), sample_pipeline(geometry, photometric=STRONG)
    settings = AugmentSettings().model_dump(mode="json")
    views = AugmentSettings(mode="on-the-fly", views=True).model_dump(mode="json")
    behind = sample_pipeline((), photometric=STRONG)
    stored, root = str(store.path), str(folder)
    return [
        Way("CocoDataset", mmdetection),
        Way("StoredLabels", ours(StoredLabels(stored, root, plain))),
        Way("StoredLabels, colours and blur", ours(StoredLabels(stored, root, strong))),
        Way("Composites, colours and blur", ours(Composites(stored, root, None, None, settings, strong))),
        Way(
            "Composites of views, colours and blur",
            ours(Composites(stored, root, None, None, views, behind, geometry=geometry)),
        ),
    ]


def require_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Assert the same pixels, and the same labels, boxes and masks of instances that are large enough."""
    assert bool((one["inputs"] == other["inputs"]).all())
    theirs, ours = one["data_samples"].gt_instances, other["data_samples"].gt_instances
    sides_px = np.minimum(theirs.bboxes.widths.numpy(), theirs.bboxes.heights.numpy())
    theirs = theirs[np.flatnonzero((sides_px >= 2) & (theirs.masks.areas >= 4))]
    assert theirs.labels.tolist() == ours.labels.tolist()
    assert theirs.bboxes.tensor.tolist() == ours.bboxes.tensor.tolist()
    np.testing.assert_array_equal(theirs.masks.masks, ours.masks.masks)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of a tile, in pixels")
    parser.add_argument("--rows", type=int, default=2, help="rows of tiles in an image")
    parser.add_argument("--columns", type=int, default=4, help="columns of tiles in an image")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    init_default_scope("mmdet")
    with TemporaryDirectory() as name:
        folder = Path(name)
        store = make_images(folder, arguments.images, arguments.size, arguments.rows, arguments.columns)
        ways = make_ways(folder, store)
        for draw in range(arguments.images):
            require_same(ways[0].run(draw), ways[1].run(draw))
        for each in range(1, arguments.rounds + 1):
            for way in ways:
                way.time(range(each * arguments.images, (each + 1) * arguments.images))

    instances = store.attributes.instances / len(store)
    print(
        f"{store[0].width} x {store[0].height} px, {instances:.0f} instances per image, one process, medians of "
        f"{arguments.rounds} rounds of {arguments.images} samples\n"
    )
    print("| | ms/sample | CPU ms | samples/s | times CocoDataset |")
    print("|---|---|---|---|---|")
    for way in ways:
        seconds, cpu = statistics.median(way.seconds), statistics.median(way.cpu_seconds)
        faster = statistics.median(one / our for one, our in zip(ways[0].seconds, way.seconds, strict=True))
        print(f"| {way.name} | {seconds * 1e3:.1f} | {cpu * 1e3:.1f} | {1 / seconds:.1f} | {faster:.1f} |")


if __name__ == "__main__":
    main()
