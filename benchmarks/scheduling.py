"""Measure what Dask and this project's own bookkeeping cost for each shard: many workers, many shards, little work.

    python -m benchmarks.scheduling [--workers 32] [--shards 100000] [--milliseconds 1]

The workers are threads of this process, as is the scheduler, and a shard only sleeps: all that is left is overhead, and
more of it than with processes of their own, which would share it. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dask
from distributed import LocalCluster

from pipeline.compute.settings import ComputeSettings
from pipeline.compute.shards import Shard, ShardReport, run_shards
from pipeline.compute.worker_check import WorkPaths


@dataclass(frozen=True)
class Sleeping:
    """Work that takes a time and makes nothing."""

    folder: Path
    seconds: float

    def compute(self, shard: Shard) -> list[int]:
        time.sleep(self.seconds)
        return list(shard.image_ids)

    def publish(self, shard: Shard, rows: Sequence[int]) -> ShardReport:
        return ShardReport(len(rows), {"instances": len(rows)}, {})

    @property
    def paths(self) -> WorkPaths:
        return WorkPaths((), self.folder)

    def given_up(self, image_id: int, reason: str) -> int:
        return image_id


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--milliseconds", type=float, default=1.0, help="time of a shard")
    options = parser.parse_args()
    shards = [Shard(index, tuple(range(8 * index, 8 * index + 8))) for index in range(options.shards)]
    cpu_times: list[float] = []

    def done(_: ShardReport) -> None:
        cpu_times.append(time.process_time())

    settings = {
        "distributed.admin.log-format": "%(message)s",
        "distributed.worker.memory.terminate": False,
        # 32 profilers and monitors in one process would measure each other, and more the longer it waits for a core.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.system-monitor.interval": "1 hour",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(settings),
        LocalCluster(
            n_workers=options.workers,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            silence_logs="CRITICAL",
        ) as cluster,
    ):
        work = Sleeping(Path(folder), options.milliseconds / 1e3)
        compute = ComputeSettings(scheduler=cluster.scheduler_address)
        run_shards(work, shards[: 2 * options.workers], compute, done)  # everything is imported
        cpu_times.clear()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun, cpu_begun = time.perf_counter(), time.process_time()
        run_shards(work, shards, compute, done)
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    assert len(cpu_times) == options.shards
    tenth = options.shards // 10
    first, last = cpu_times[tenth - 1] - cpu_begun, cpu_times[-1] - cpu_times[-tenth - 1]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    ideal = options.shards * options.milliseconds / 1e3 / options.workers
    print(
        "| workers | shards | seconds | without any overhead | processor ms a shard | first, last tenth | memory, MB |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {options.workers} | {options.shards:,} | {seconds:.1f} | {ideal:.1f} "
        f"| {1e3 * cpu_seconds / options.shards:.2f} | {1e3 * first / tenth:.2f}, {1e3 * last / tenth:.2f} "
        f"| +{grown:.0f} |"
    )


if __name__ == "__main__":
    # By the name that workers import its classes by: of a program that is run, they would be sent as code.
    from benchmarks import scheduling

    scheduling.main()
