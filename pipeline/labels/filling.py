"""Makes a store shard by shard: an interrupted run continues at its first missing shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.coco.model import CocoCategory
from pipeline.compute.execution import Execution, TooManyFailedError, run_missing
from pipeline.compute.shards import ShardReport, ShardWork
from pipeline.files.leftovers import remove_folder
from pipeline.labels.class_thresholds import ThresholdRule
from pipeline.labels.label_columns import LABEL_FORMAT
from pipeline.labels.label_writing import seal_labels, shard_labels, write_above_thresholds
from pipeline.labels.rows import ImageLabels, Status
from pipeline.tables.shard_files import ShardPlan, completed_shards, shard_counts, shard_path
from pipeline.tables.table_format import TableFormat


class WorkAside(ShardWork[Any, ShardReport], Protocol):
    """Work that keeps its shards beside the store until the store is sealed."""

    @property
    def shards_folder(self) -> Path:
        """Return the folder of the shards, which is removed when the store is sealed."""
        ...


@dataclass(frozen=True)
class NewStore:
    """A label store to make.

    provenance: JSON that says what made the labels. rule: chooses a threshold for each class, which the store's labels
    reach, when all shards are there; None: the store has every label of the shards.
    """

    path: Path
    categories: Sequence[CocoCategory]
    provenance: Mapping[str, Any]
    rule: ThresholdRule | None = None


def shards_beside(sealed: Path) -> Path:
    """Return the folder of a store's shards, which exists until the store is sealed."""
    return sealed.with_name("shards").absolute()


@dataclass(frozen=True)
class ShardedStore:
    """A store to make from shards. seal_shards: makes it from all shards of a plan."""

    path: Path
    table_format: TableFormat[Any]
    seal_shards: Callable[[ShardPlan], object]


def fill_store(what: str, work: WorkAside, plan: ShardPlan, store: ShardedStore, execution: Execution) -> Counter[str]:
    """Make a store, unless it exists; reuse the shards of an earlier run. Return the counts of the shards that ran now.

    Raise TooManyFailedError where more images failed than the settings allow, after removing the shards that have any,
    so that the next run makes these again.
    """
    counts: Counter[str] = Counter()
    if not store.path.exists():
        complete = completed_shards(work.shards_folder, plan)
        failed_before = sum(_failed(work.shards_folder, plan, complete, store.table_format).values())
        try:
            counts = run_missing(what, work, plan, complete, execution, failed_before)
        except TooManyFailedError:
            complete = completed_shards(work.shards_folder, plan)
            for index in _failed(work.shards_folder, plan, complete, store.table_format):
                shard_path(work.shards_folder, index, plan[index]).unlink(missing_ok=True)
            raise
        store.seal_shards(plan)
    remove_folder(work.shards_folder)
    return counts


def _failed(folder: Path, plan: ShardPlan, complete: Iterable[int], table_format: TableFormat[Any]) -> dict[int, int]:
    """Return the number of failed images of each of these shards that has any."""
    counts = {
        index: shard_counts(table_format, folder, index, plan[index], "statuses").get(Status.FAILED, 0)
        for index in complete
    }
    return {index: count for index, count in counts.items() if count}


def fill_label_store(
    what: str, work: WorkAside, plan: ShardPlan, store: NewStore, execution: Execution
) -> Counter[str]:
    """Make a label store as `fill_store` does."""

    def seal_shards(plan: ShardPlan) -> object:
        if store.rule is None:
            return seal_labels(work.shards_folder, plan, store.path, store.categories, store.provenance)

        def candidates() -> Iterator[ImageLabels]:
            return shard_labels(work.shards_folder, plan)

        return write_above_thresholds(candidates, store.rule, store.path, store.categories, store.provenance)

    return fill_store(what, work, plan, ShardedStore(store.path, LABEL_FORMAT, seal_shards), execution)
