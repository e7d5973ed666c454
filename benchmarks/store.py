"""Measures the label store: bytes on disk, time to open, to read and to seal, and memory while sealing.

    python benchmarks/store.py --images 100000 --folder /some/disk

The labels are synthetic: wobbly outlines in images of 640x480, in sizes spread as COCO's are. Needs about
1.5 GB of disk for 100,000 images of 10 instances; prints a Markdown table.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.coco.model import CocoCategory
from pipeline.labels.coco_export import export_dataset
from pipeline.labels.label_columns import LABEL_FORMAT
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import seal_labels, write_label_shard, write_label_store
from pipeline.labels.rows import Decision, ImageLabels, InstanceLabel, label_from_rle
from pipeline.masks.soft_masks import make_soft_mask
from pipeline.tables.shard_files import ShardPlan, divide
from pipeline.tables.verifying import verify

WIDTH, HEIGHT = 640, 480
CATEGORIES = tuple(CocoCategory(number, f"category {number}") for number in range(1, 81))
IMAGES_PER_SHARD = 256
READS = 3000
SOFT_MASK_IMAGES = 500

Result = TypeVar("Result")
Table = list[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--instances", type=int, default=10, help="instances an image")
    parser.add_argument("--processes", type=int, default=1, help="processes that make the labels")
    parser.add_argument("--folder", type=Path, help="where to put the store; default: the system's own place")
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        table = measure(Path(folder), options.images, options.instances, options.processes)
    print("| what | measured |\n|---|---:|")
    for what, measured in table:
        print(f"| {what} | {measured} |")


def measure(folder: Path, images: int, instances: int, processes: int) -> Table:
    """All figures, in the order of the table."""
    shards, store_path = folder / "shards", folder / "labels.zarr"
    plan = divide(range(1, images + 1), IMAGES_PER_SHARD)
    seconds = seconds_of(lambda: make_shards(shards, plan, instances, processes))
    table = [
        ("images, instances", f"{images:,}, {images * instances:,}"),
        ("making and writing the shards", f"{seconds:.0f} s"),
    ]
    for part in (4, 2, 1):
        shutil.rmtree(store_path, ignore_errors=True)
        some = plan[: -(-len(plan) // part)]
        sealed = in_fresh_process(measure_seal, shards, some, store_path)
        table.append((f"sealing {sum(map(len, some)):,} images", sealed))
    shutil.rmtree(shards)
    table += in_fresh_process(measure_reading, store_path)
    table.append(("verifying", f"{seconds_of(lambda: verify(store_path, LABEL_FORMAT)):.1f} s"))
    table += measure_size(folder, store_path)
    table.append(("soft masks add", f"{soft_mask_bytes(folder, instances):.0f} bytes an instance"))
    return table


def measure_seal(shards: Path, plan: ShardPlan, store_path: Path) -> str:
    """Seconds, and by how much the process grew beyond what its imports need."""
    before = peak_memory_mb()
    seconds = seconds_of(lambda: seal_labels(shards, plan, store_path, CATEGORIES, {}))
    return f"{seconds:.1f} s, {peak_memory_mb() - before:.0f} MB of memory"


def measure_reading(store_path: Path) -> Table:
    """Times to open and to read, of a process that does nothing else."""
    opening = statistics.median(seconds_of(lambda: LabelStore.open(store_path)) for _ in range(50))
    store = LabelStore.open(store_path)
    first = seconds_of(lambda: store.by_id(len(store) // 2))
    chosen = random.Random(0)
    reads = [
        seconds_of(partial(store.by_id, image_id))
        for image_id in (1 + chosen.randrange(len(store)) for _ in range(2 * READS))
    ]
    warm = sorted(reads[READS:])
    memory_mb = peak_memory_mb()
    seconds = seconds_of(lambda: sum(len(labels.instances) for labels in store))
    return [
        ("opening", f"{opening * 1e3:.1f} ms"),
        ("reading the first image", f"{first * 1e3:.1f} ms"),
        ("reading a random image, median", f"{statistics.median(warm) * 1e3:.2f} ms"),
        ("reading a random image, 95 of 100", f"{warm[len(warm) * 95 // 100] * 1e3:.2f} ms"),
        ("whole process after that", f"{memory_mb:.0f} MB of memory"),
        ("reading all images in order", f"{seconds:.1f} s, {len(store) / seconds:,.0f} images/s"),
    ]


def measure_size(folder: Path, store_path: Path) -> Table:
    """Bytes of the store against the same content as COCO JSON."""
    files = [file.stat().st_size for file in store_path.rglob("*") if file.is_file()]
    dataset, zipped = folder / "dataset.json", folder / "dataset.json.gz"
    export_dataset(LabelStore.open(store_path), dataset, include_dropped=True)
    with dataset.open("rb") as source, gzip.open(zipped, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target)
    table = [("store", f"{sum(files) / 1e6:.1f} MB in {len(files)} files")]
    for what, file in (("COCO JSON", dataset), ("gzipped COCO JSON", zipped)):
        size = file.stat().st_size
        table.append((f"the same as {what}", f"{size / 1e6:.1f} MB, {size / sum(files):.2f} times as much"))
    return table


def soft_mask_bytes(folder: Path, instances: int) -> float:
    """How much larger a store gets, for each instance, by soft masks."""
    sizes = []
    for with_soft_masks in (False, True):
        path = folder / f"soft-{with_soft_masks}.zarr"
        write_label_store(path, synthetic(range(SOFT_MASK_IMAGES), instances, with_soft_masks), CATEGORIES, {})
        sizes.append(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    return (sizes[1] - sizes[0]) / (SOFT_MASK_IMAGES * instances)


def make_shards(folder: Path, plan: ShardPlan, instances: int, processes: int) -> None:
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.starmap(make_shard, ((folder, index, ids, instances) for index, ids in enumerate(plan)), chunksize=4)


def make_shard(folder: Path, index: int, image_ids: Sequence[int], instances: int) -> None:
    write_label_shard(folder, index, list(synthetic(image_ids, instances, with_soft_masks=False)))


def synthetic(image_ids: Sequence[int], instances: int, with_soft_masks: bool) -> Iterator[ImageLabels]:
    """Labels as refinement leaves them; the same for the same ids."""
    for image_id in image_ids:
        rng = np.random.default_rng(image_id)
        labels = tuple(synthetic_instance(rng, with_soft_masks) for _ in range(instances))
        name = f"train2017/{image_id:012d}.jpg"
        yield ImageLabels.of_instances(image_id, name, WIDTH, HEIGHT, labels)


def synthetic_instance(rng: np.random.Generator, with_soft_masks: bool) -> InstanceLabel:
    rle = coco_mask.frPyObjects([outline(rng).ravel().tolist()], HEIGHT, WIDTH)[0]
    decision = rng.choice([Decision.SAM, Decision.TEACHER, Decision.DROPPED], p=[0.8, 0.12, 0.08])
    score = rng.uniform(0.7, 1)
    label = label_from_rle(rle, int(rng.integers(1, 81)), score, Decision(decision))
    if with_soft_masks:
        mask = coco_mask.decode(rle).astype(np.float32)
        return replace(label, soft_mask=make_soft_mask(cv2.GaussianBlur(mask, (0, 0), 3), label.box_xyxy))
    measures = rng.uniform(0.5, 1, 4)
    return replace(
        label,
        predicted_iou=measures[0],
        stability=measures[1],
        agreement=measures[2],
        candidate=int(rng.integers(3)),
        gate_confidence=measures[3],
    )


def outline(rng: np.random.Generator) -> NDArray[np.float64]:
    """A wobbly closed outline, (64, 2), x then y; half of COCO's instances are under 60 pixels wide."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = np.arange(2, 14)[:, None]
    wobble = (rng.normal(0, 0.35, (12, 1)) / waves * np.cos(waves * angles + rng.uniform(0, 6.3, (12, 1)))).sum(0)
    radius = np.clip(rng.lognormal(np.log(28), 0.8), 3, 200) * np.clip(1 + wobble, 0.3, None)
    center = rng.uniform((0, 0), (WIDTH, HEIGHT))
    points = center + np.stack([radius * np.cos(angles), radius * rng.uniform(0.5, 1) * np.sin(angles)], axis=1)
    return np.clip(points, 0, (WIDTH - 1, HEIGHT - 1))


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """The function's result from a process of its own, whose memory nothing else has touched."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_memory_mb() -> float:
    """The most memory this process has had so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
