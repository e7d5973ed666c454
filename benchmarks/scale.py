"""What Dask costs and what workers gain: refining in this process, and on clusters of worker processes.

    OMP_NUM_THREADS=1 python -m benchmarks.scale --annotations FILE --images FOLDER [--limit 200] [--workers 1 2]

The labels to refine are the annotations themselves. Processes start and load their model before the clock does, as
a run of any length pays that once. Prints a Markdown table. A worker is a core, and the cores must be free: what
others take of them is missing from the figures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.coco.reading import read_coco
from pipeline.compute import Shard, run_shards
from pipeline.experiment.schema import ComputeSettings, RefineSettings
from pipeline.labels.sealing import write_store
from pipeline.labels.shards import divide
from pipeline.refinement.coco_file import rows_to_refine
from pipeline.refinement.gate import Gate
from pipeline.refinement.job import RefineWork
from pipeline.sam.worker import SamChoice

IN_PROCESS = ComputeSettings()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instance annotations")
    parser.add_argument("--images", type=Path, required=True, help="the folder that their file names start from")
    parser.add_argument("--limit", type=int, default=200, help="images")
    parser.add_argument("--images-per-shard", type=int, default=8, help="less than a run's own 32: more of Dask's work")
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
        write_store(folder / "teacher.zarr", rows_to_refine(dataset, {}), dataset.categories, {})
        work = RefineWork(
            teacher_store=folder / "teacher.zarr",
            image_root=arguments.images.absolute(),
            shards_folder=folder / "shards",
            sam=SamChoice("sam_tiny", None, "cpu", "fp32", batch_images=8),
            settings=RefineSettings(),
            gate=Gate(),
        )
        alone = seconds_of(work, shards, IN_PROCESS)
        lines = [("in this process", alone)] + [
            (f"Dask, {workers} worker{'s' * (workers > 1)}", on_cluster(work, shards, workers))
            for workers in arguments.workers
        ]
    images = len(dataset.images)
    print(f"{images} images, {len(dataset.annotations)} instances, {len(shards)} shards\n")
    print("| where | seconds | images/s | times as fast |\n|---|---:|---:|---:|")
    for name, seconds in lines:
        print(f"| {name} | {seconds:.1f} | {images / seconds:.2f} | {alone / seconds:.2f} |")


def on_cluster(work: RefineWork, shards: Sequence[Shard], workers: int) -> float:
    """The seconds that a cluster of this machine's processes takes."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL"
    ) as cluster:
        return seconds_of(work, shards, ComputeSettings(scheduler=cluster.scheduler_address))


def seconds_of(work: RefineWork, shards: Sequence[Shard], compute: ComputeSettings) -> float:
    """The seconds that all shards take, after each process has had some to begin with."""
    with (
        tempfile.TemporaryDirectory(dir=work.shards_folder.parent) as warm_up,
        tempfile.TemporaryDirectory(dir=work.shards_folder.parent) as measured,
    ):
        run_shards(replace(work, shards_folder=Path(warm_up)), shards[:4], compute, lambda _: None)
        begun = time.perf_counter()
        run_shards(replace(work, shards_folder=Path(measured)), shards, compute, lambda _: None)
        return time.perf_counter() - begun


if __name__ == "__main__":
    main()
