"""Measure the cost of Dask and the gain of workers: refining in this process, and on clusters of worker processes.

    python -m benchmarks.scale --annotations FILE --images FOLDER [--limit 400] [--rounds 3] [--workers 1 2]

The labels to refine are the annotations themselves. Processes start and load their model before the measurement,
because a run of any length does that once. The ways run in turn. Prints a Markdown table of medians. Each worker needs
a free core: other programs on the cores make all figures worse, processor time the least.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.reading import read_coco
from pipeline.compute.settings import ComputeSettings
from pipeline.compute.shards import Shard, local_cluster, run_shards
from pipeline.labels.label_writing import write_label_store
from pipeline.refinement.coco_file import rows_to_refine
from pipeline.refinement.gate import Gate
from pipeline.refinement.refine_work import RefineWork
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.worker import SamChoice
from pipeline.tables.shard_files import divide

IN_PROCESS = ComputeSettings()


class Cost(NamedTuple):
    """The time of a run: by the clock, and of all processors."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instance annotations")
    parser.add_argument("--images", type=Path, required=True, help="the folder that their file names start from")
    parser.add_argument("--limit", type=int, default=400, help="number of images")
    parser.add_argument(
        "--images-per-shard", type=int, default=8, help="fewer than the stage's 32, for more work of Dask"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all ways")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="worker processes of each cluster")
    arguments = parser.parse_args()
    dataset = read_coco(arguments.annotations)
    dataset = dataset.subset([image.id for image in dataset.images][: arguments.limit])
    shards = [
        Shard(index, ids)
        for index, ids in enumerate(divide([image.id for image in dataset.images], arguments.images_per_shard))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_label_store(folder / "teacher.zarr", rows_to_refine(dataset, {}), dataset.categories, {})
        work = RefineWork(
            teacher_store=folder / "teacher.zarr",
            images=ImageFolder(arguments.images.absolute()),
            shards_folder=folder / "shards",
            sam=SamChoice("sam_tiny", None, "cpu", "fp32", batch_images=8),
            settings=RefineSettings(preset="s4m"),
            gate=Gate(),
        )
        ways: dict[str, Callable[[], Cost]] = {"in this process": partial(cost_of, work, shards, IN_PROCESS, own_cpu)}
        for workers in arguments.workers:
            ways[f"Dask, {workers} worker{'s' * (workers > 1)}"] = partial(on_cluster, work, shards, workers)
        costs: dict[str, list[Cost]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                costs[name].append(way())
    images = len(dataset.images)
    print(f"{images} images, {len(dataset.annotations)} instances, {len(shards)} shards; medians of rounds\n")
    print("| where | seconds | processor seconds | images/s | times as fast |\n|---|---:|---:|---:|---:|")
    medians = {name: Cost(*map(statistics.median, zip(*each, strict=True))) for name, each in costs.items()}
    alone = next(iter(medians.values())).seconds
    for name, cost in medians.items():
        speed = f"{images / cost.seconds:.2f} | {alone / cost.seconds:.2f}"
        print(f"| {name} | {cost.seconds:.1f} | {cost.cpu_seconds:.1f} | {speed} |")


def on_cluster(work: RefineWork, shards: Sequence[Shard], workers: int) -> Cost:
    """Measure all shards on a cluster of processes of this machine."""
    from distributed import Client

    with local_cluster(workers) as cluster, Client(cluster) as client:
        compute = ComputeSettings(scheduler=cluster.scheduler_address)
        return cost_of(work, shards, compute, lambda: own_cpu() + sum(client.run(own_cpu).values()))


def own_cpu() -> float:
    """Return the processor seconds of this process so far."""
    return time.process_time()


def cost_of(work: RefineWork, shards: Sequence[Shard], compute: ComputeSettings, cpu: Callable[[], float]) -> Cost:
    """Measure all shards, after every process has computed a few to warm up."""
    with (
        tempfile.TemporaryDirectory(dir=work.shards_folder.parent) as warm_up,
        tempfile.TemporaryDirectory(dir=work.shards_folder.parent) as measured,
    ):
        run_shards(replace(work, shards_folder=Path(warm_up)), shards[:4], compute, lambda _: None)
        begun, cpu_begun = time.perf_counter(), cpu()
        run_shards(replace(work, shards_folder=Path(measured)), shards, compute, lambda _: None)
        return Cost(time.perf_counter() - begun, cpu() - cpu_begun)


if __name__ == "__main__":
    main()
