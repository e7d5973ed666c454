"""Measure the label store: bytes on disk, time to open, to read, to seal, to compare and to export, and memory.

    python benchmarks/store.py --images 100000 --folder /some/disk
    python benchmarks/store.py --images 1000000 --distinct 2000 --folder /some/disk

The labels are synthetic: wobbly outlines in images of 640x480, with COCO's distribution of sizes. `--distinct` draws
them for that many images only and uses them again and again under other ids, because drawing takes longer than all
that is measured. Needs about 1.5 GB of disk for 100,000 images of 10 instances. Prints a Markdown table.
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
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.coco.model import CocoCategory
from pipeline.labels.coco_export import export_dataset
from pipeline.labels.diff import diff
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
    parser.add_argument("--instances", type=int, default=10, help="instances per image")
    parser.add_argument("--processes", type=int, default=1, help="processes that make the labels")
    parser.add_argument("--folder", type=Path, help="where to write the store; default: the system's temporary folder")
    parser.add_argument("--distinct", type=int, help="images whose labels differ; default: all")
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    synthesis = Synthesis(options.instances, options.distinct or options.images)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        table = measure(Path(folder), options.images, synthesis, options.processes)
    print("| what | measured |\n|---|---:|")
    for what, measured in table:
        print(f"| {what} | {measured} |")


@dataclass(frozen=True)
class Synthesis:
    """How labels are made up. distinct: images after which the same labels come again.

    compared: other labels for one image in ten, for a second store to compare with.
    """

    instances: int
    distinct: int
    compared: bool = False


def measure(folder: Path, images: int, synthesis: Synthesis, processes: int) -> Table:
    """Return all figures, in the order of the table."""
    shards, store_path, other_path = folder / "shards", folder / "labels.zarr", folder / "compared.zarr"
    plan = divide(range(1, images + 1), IMAGES_PER_SHARD)
    seconds = seconds_of(lambda: make_shards(shards, plan, synthesis, processes))
    table = [
        ("images, instances", f"{images:,}, {images * synthesis.instances:,}"),
        ("making and writing the shards", f"{seconds:.0f} s, {len(list(shards.iterdir())):,} files"),
    ]
    for part in (4, 2, 1):
        shutil.rmtree(store_path, ignore_errors=True)
        partial_plan = plan[: -(-len(plan) // part)]
        sealed = in_fresh_process(measure_seal, shards, partial_plan, store_path)
        table.append((f"sealing {sum(map(len, partial_plan)):,} images", sealed))
    shutil.rmtree(shards)
    table += in_fresh_process(measure_reading, store_path)
    table.append(("verifying", in_fresh_process(measure_memory, verify, store_path, LABEL_FORMAT)))
    make_shards(shards, plan, replace(synthesis, compared=True), processes)
    seal_labels(shards, plan, other_path, CATEGORIES, {})
    shutil.rmtree(shards)
    table.append(("comparing with another store", in_fresh_process(measure_memory, compare, store_path, other_path)))
    shutil.rmtree(other_path)
    table += measure_size(folder, store_path)
    table.append(("soft masks add", f"{soft_mask_bytes(folder, synthesis.instances):.0f} bytes per instance"))
    return table


def compare(first: Path, second: Path) -> None:
    diff(LabelStore.open(first), LabelStore.open(second))


def export(store_path: Path, output: Path) -> None:
    export_dataset(LabelStore.open(store_path), output, include_dropped=True)


def measure_memory(function: Callable[..., object], *arguments: object) -> str:
    """Return the seconds of a call, and the growth of the process's memory beyond its imports."""
    before = peak_memory_mb()
    seconds = seconds_of(lambda: function(*arguments))
    return f"{seconds:.1f} s, {peak_memory_mb() - before:.0f} MB of memory"


def measure_seal(shards: Path, plan: ShardPlan, store_path: Path) -> str:
    return measure_memory(seal_labels, shards, plan, store_path, CATEGORIES, {})


def measure_reading(store_path: Path) -> Table:
    """Return the times to open and to read, of a process that does nothing else."""
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
    all_mb = peak_memory_mb()
    return [
        ("opening", f"{opening * 1e3:.1f} ms"),
        ("reading the first image", f"{first * 1e3:.1f} ms"),
        ("reading a random image, median", f"{statistics.median(warm) * 1e3:.2f} ms"),
        ("reading a random image, 95th percentile", f"{warm[len(warm) * 95 // 100] * 1e3:.2f} ms"),
        ("whole process after that", f"{memory_mb:.0f} MB of memory"),
        ("reading all images in order", f"{seconds:.1f} s, {len(store) / seconds:,.0f} images/s, {all_mb:.0f} MB"),
    ]


def measure_size(folder: Path, store_path: Path) -> Table:
    """Return the bytes of the store and of the same content as COCO JSON."""
    files = [file.stat().st_size for file in store_path.rglob("*") if file.is_file()]
    dataset, zipped = folder / "dataset.json", folder / "dataset.json.gz"
    exported = in_fresh_process(measure_memory, export, store_path, dataset)
    with dataset.open("rb") as source, gzip.open(zipped, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target)
    table = [("store", f"{sum(files) / 1e6:.1f} MB in {len(files)} files"), ("exporting as COCO JSON", exported)]
    for what, file in (("COCO JSON", dataset), ("gzipped COCO JSON", zipped)):
        size = file.stat().st_size
        table.append((f"the same as {what}", f"{size / 1e6:.1f} MB, {size / sum(files):.2f} times as much"))
    return table


def soft_mask_bytes(folder: Path, instances: int) -> float:
    """Return the bytes per instance that soft masks add to a store."""
    sizes = []
    for with_soft_masks in (False, True):
        path = folder / f"soft-{with_soft_masks}.zarr"
        rows = (synthetic_image(image_id, instances, with_soft_masks) for image_id in range(SOFT_MASK_IMAGES))
        write_label_store(path, rows, CATEGORIES, {})
        sizes.append(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    return (sizes[1] - sizes[0]) / (SOFT_MASK_IMAGES * instances)


def make_shards(folder: Path, plan: ShardPlan, synthesis: Synthesis, processes: int) -> None:
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.starmap(make_shard, ((folder, index, ids, synthesis) for index, ids in enumerate(plan)), chunksize=4)


def make_shard(folder: Path, index: int, image_ids: Sequence[int], synthesis: Synthesis) -> None:
    write_label_shard(folder, index, list(synthetic(image_ids, synthesis)))


def synthetic(image_ids: Sequence[int], synthesis: Synthesis) -> Iterator[ImageLabels]:
    """Yield labels like refined ones; the same ids give the same labels."""
    for image_id in image_ids:
        drawn_id = (image_id + (synthesis.compared and image_id % 10 == 0)) % synthesis.distinct
        labels = drawn(drawn_id, synthesis.instances)
        yield replace(labels, image_id=image_id, file_name=name_of(image_id))


@lru_cache(maxsize=2048)
def drawn(image_id: int, instances: int) -> ImageLabels:
    return synthetic_image(image_id, instances, with_soft_masks=False)


def synthetic_image(image_id: int, instances: int, with_soft_masks: bool) -> ImageLabels:
    rng = np.random.default_rng(image_id)
    labels = tuple(synthetic_instance(rng, with_soft_masks) for _ in range(instances))
    return ImageLabels.of_instances(image_id, name_of(image_id), WIDTH, HEIGHT, labels)


def name_of(image_id: int) -> str:
    return f"train2017/{image_id:012d}.jpg"


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
    """Return a wobbly closed outline, (64, 2), x then y; half of COCO's instances are under 60 pixels wide."""
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
    """Return the function's result from a new process, in whose memory nothing else has run."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_memory_mb() -> float:
    """Return the peak memory of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
