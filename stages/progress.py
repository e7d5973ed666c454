"""How far a sharded stage is: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.compute.settings import ComputeSettings
from pipeline.compute.shards import Shard, ShardReport, ShardWork, run_shards
from pipeline.tables.shard_files import ShardPlan, completed_shards
from stages.console import err

SECONDS_BETWEEN_LINES = 10.0


class ShardProgress:
    """Counts images, decisions and failures as shards come in, and shows them."""

    def __init__(self, what: str, images: int, done_before: int) -> None:
        self._what, self._images = what, images
        self._done_before = self._done = done_before
        self.counts: Counter[str] = Counter()
        self._begun = self._said = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[about]}"),
            console=err,
        )
        self._task = self._bar.add_task(what, total=images, completed=done_before, about="")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the progress while this is entered."""
        if self._done:
            err.print(f"{self._what}: {self._done:,} of {self._images:,} images were done before")
        if err.is_terminal:
            with self._bar:
                yield
        else:
            yield

    def add(self, report: ShardReport) -> None:
        """Note a finished shard."""
        self._done += report.images
        self.counts.update(report.decisions)
        for name, reason in report.failures.items():
            self.counts["failed"] += 1
            err.print(f"{name}: {reason}")
        elapsed = time.monotonic() - self._begun
        rate = (self._done - self._done_before) / elapsed if elapsed else 0.0
        about = "  ".join([f"{rate:.1f} images/s", *(f"{name} {count:,}" for name, count in self.counts.items())])
        self._bar.update(self._task, completed=self._done, about=about)
        if not err.is_terminal and time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            left = (self._images - self._done) / rate if rate else 0.0
            err.print(f"{self._what}: {self._done:,} of {self._images:,} images, {left:.0f} s to go, {about}")


class WorkAside(ShardWork[Any, ShardReport], Protocol):
    """Work whose shards lie beside the store until that is sealed."""

    @property
    def shards_folder(self) -> Path:
        """Where the shards lie; gone when the store is there."""
        ...


def shards_beside(sealed: Path) -> Path:
    """Where the shards of a store lie until it is sealed."""
    return sealed.with_name("shards").absolute()


def fill_store(
    what: str,
    work: WorkAside,
    plan: ShardPlan,
    sealed: Path,
    compute: ComputeSettings,
    seal: Callable[[ShardPlan], object],
) -> Counter[str]:
    """Make a store shard by shard unless it is there; what an earlier run has done is not done again.

    `seal` makes the store of all shards. Gives what the shards that were run now have counted.
    """
    counts: Counter[str] = Counter()
    if not sealed.exists():
        counts = run_missing(what, work, plan, completed_shards(work.shards_folder, plan), compute)
        seal(plan)
    shutil.rmtree(work.shards_folder, ignore_errors=True)
    return counts


def run_missing(
    what: str,
    work: ShardWork[Any, ShardReport],
    plan: ShardPlan,
    complete: frozenset[int],
    compute: ComputeSettings,
) -> Counter[str]:
    """Run the shards of a plan that are not complete yet, and show how far it is; gives what they counted."""
    missing = [Shard(index, tuple(ids)) for index, ids in enumerate(plan) if index not in complete]
    progress = ShardProgress(what, sum(map(len, plan)), sum(len(plan[index]) for index in complete))
    with progress.shown():
        run_shards(work, missing, compute, progress.add)
    return progress.counts
