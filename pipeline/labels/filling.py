"""Makes a store shard by shard: an interrupted run goes on at its first missing shard."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.coco.model import CocoCategory
from pipeline.compute.execution import Execution, run_missing
from pipeline.compute.shards import ShardReport, ShardWork
from pipeline.labels.label_writing import seal_labels
from pipeline.tables.shard_files import ShardPlan, completed_shards


class WorkAside(ShardWork[Any, ShardReport], Protocol):
    """Work whose shards lie beside the store until it is sealed."""

    @property
    def shards_folder(self) -> Path:
        """Return the folder of the shards, which is removed when the store is sealed."""
        ...


@dataclass(frozen=True)
class NewStore:
    """A label store to make. provenance: JSON that tells what made the labels."""

    path: Path
    categories: Sequence[CocoCategory]
    provenance: Mapping[str, Any]


def shards_beside(sealed: Path) -> Path:
    """Return the folder where the shards of a store lie until it is sealed."""
    return sealed.with_name("shards").absolute()


def fill_store(
    what: str,
    work: WorkAside,
    plan: ShardPlan,
    sealed: Path,
    seal_shards: Callable[[ShardPlan], object],
    execution: Execution,
) -> Counter[str]:
    """Make the store at `sealed`, unless it exists; shards of an earlier run are used again.

    seal_shards: makes the store of all shards. Returns what the shards that ran now have counted.
    """
    counts: Counter[str] = Counter()
    if not sealed.exists():
        counts = run_missing(what, work, plan, completed_shards(work.shards_folder, plan), execution)
        seal_shards(plan)
    shutil.rmtree(work.shards_folder, ignore_errors=True)
    return counts


def fill_label_store(
    what: str, work: WorkAside, plan: ShardPlan, store: NewStore, execution: Execution
) -> Counter[str]:
    """Make a label store as `fill_store` does."""
    return fill_store(
        what,
        work,
        plan,
        store.path,
        lambda plan: seal_labels(work.shards_folder, plan, store.path, store.categories, store.provenance),
        execution,
    )
