"""Sealing: from shards to the one flat, immutable Zarr store, in the same memory for few images and many."""

from __future__ import annotations

import fcntl
import glob
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
import zarr
from numpy.typing import NDArray

from pipeline.coco.model import CocoCategory
from pipeline.errors import StoreError
from pipeline.labels.arrays import create_column
from pipeline.labels.attributes import StoreAttributes, content_digest
from pipeline.labels.rows import ImageLabels
from pipeline.labels.schema import (
    COLUMNS,
    DECISIONS,
    FORMAT,
    FORMAT_VERSION,
    STATUSES,
    TABLES,
    Column,
    column_rows,
    layout,
)
from pipeline.labels.shards import (
    ShardPlan,
    completed_shards,
    explained_if_full,
    read_shard,
    shard_path,
    shard_rows,
    sync_folder,
    sync_tree,
    write_shard,
)

_IMAGES_PER_SHARD = 256
_LOCK = "lock"


def seal(
    shards_folder: Path,
    plan: ShardPlan,
    store_path: Path,
    categories: Sequence[CocoCategory],
    provenance: Mapping[str, Any],
) -> StoreAttributes:
    """Make the store of all shards of a plan, in its order; it appears under its name whole or not at all.

    The store is written aside within the shards' folder, which must be on the same file system. The shards
    stay: remove their folder when the store is there. `provenance` is JSON that tells what made the labels.
    """
    _require_absent(store_path)
    shards_folder.mkdir(parents=True, exist_ok=True)
    rows = _all_rows(shards_folder, plan)
    scratch = Path(tempfile.mkdtemp(prefix=".sealing-", dir=shards_folder))
    try:
        with explained_if_full(store_path, _size(shards_folder, plan)):
            aside = scratch / store_path.name
            attributes = _write(aside, shards_folder, plan, rows, categories, provenance)
            sync_tree(aside)
            _name(aside, store_path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return attributes


def write_store(
    store_path: Path,
    labels: Iterable[ImageLabels],
    categories: Sequence[CocoCategory],
    provenance: Mapping[str, Any],
) -> StoreAttributes:
    """Make a store of labels that are there already, such as imported ones, in their order."""
    store_path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{store_path.name}.s4m-writing-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=store_path.parent) as scratch, _locked(Path(scratch)):
        plan: list[list[int]] = []
        remaining = iter(labels)
        while rows := list(islice(remaining, _IMAGES_PER_SHARD)):
            write_shard(Path(scratch), len(plan), rows)
            plan.append([row.image_id for row in rows])
        attributes = seal(Path(scratch), plan, store_path, categories, provenance)
    _remove_left_by_killed_runs(store_path.parent, prefix)
    return attributes


@contextmanager
def _locked(scratch: Path) -> Iterator[None]:
    """Tell others that somebody writes here, until this ends or the process does."""
    nameless = scratch / f"{_LOCK}.new"
    with nameless.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        nameless.rename(scratch / _LOCK)  # it is held from the moment it can be found
        yield


def _remove_left_by_killed_runs(folder: Path, prefix: str) -> None:
    """Remove scratch of earlier writers of the same store: what has their lock, and nobody holding it."""
    for left in folder.glob(f"{glob.escape(prefix)}*"):
        try:
            with (left / _LOCK).open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        except OSError:  # another process is writing there, or it is nothing of ours
            continue


def _require_absent(store_path: Path) -> None:
    if store_path.exists():
        raise StoreError(f"{store_path} is there already, and sealed labels never change: remove it first.")


def _name(aside: Path, store_path: Path) -> None:
    """Give the finished store its name."""
    try:
        aside.rename(store_path)
    except OSError:
        _require_absent(store_path)  # somebody else was faster
        raise
    sync_folder(store_path.parent)


def _all_rows(shards_folder: Path, plan: ShardPlan) -> dict[str, int]:
    """The length of every table of the store; StoreError unless every shard is there and no image twice."""
    missing = sorted(set(range(len(plan))) - completed_shards(shards_folder, plan))
    if missing:
        raise StoreError(
            f"{shards_folder}: {len(missing)} of {len(plan)} shards are missing, the first is number "
            f"{missing[0]}. Run the stage again: it makes what is missing."
        )
    repeated = [image_id for image_id, count in Counter(_ids(plan)).items() if count > 1]
    if repeated:
        raise StoreError(f"{shards_folder}: image {repeated[0]} is in the plan more than once.")
    rows = dict.fromkeys(TABLES, 0)
    for index, image_ids in enumerate(plan):
        for table, count in shard_rows(shards_folder, index, image_ids).items():
            rows[table] += count
    return rows


def _ids(plan: ShardPlan) -> Iterator[int]:
    for image_ids in plan:
        yield from image_ids


def _size(shards_folder: Path, plan: ShardPlan) -> int:
    """Bytes of all shards; the store will have about as many."""
    return sum(shard_path(shards_folder, index, ids).stat().st_size for index, ids in enumerate(plan))


def _write(
    aside: Path,
    shards_folder: Path,
    plan: ShardPlan,
    rows: Mapping[str, int],
    categories: Sequence[CocoCategory],
    provenance: Mapping[str, Any],
) -> StoreAttributes:
    group = zarr.create_group(aside)
    for name in sorted({name.partition("/")[0] for name in COLUMNS}):
        group.create_group(name)
    writers = {name: _ColumnWriter(group, column, rows) for name, column in COLUMNS.items()}
    statuses, decisions = np.zeros(len(STATUSES), np.int64), np.zeros(len(DECISIONS), np.int64)
    for index, image_ids in enumerate(plan):
        columns = read_shard(shards_folder, index, image_ids)
        statuses += np.bincount(columns["images/status"], minlength=len(STATUSES))
        decisions += np.bincount(columns["instances/decision"], minlength=len(DECISIONS))
        for name, values in columns.items():
            writers[name].append(values)
    column_digests = {name: writer.finish() for name, writer in writers.items()}
    attributes = StoreAttributes(
        format=FORMAT,
        version=FORMAT_VERSION,
        digest=content_digest(column_digests, rows, categories),
        rows=dict(rows),
        statuses=dict(zip(map(str, STATUSES), statuses.tolist(), strict=True)),
        decisions=dict(zip(map(str, DECISIONS), decisions.tolist(), strict=True)),
        categories=tuple(categories),
        column_digests=column_digests,
        provenance=dict(provenance),
    )
    group.update_attributes(msgspec.to_builtins(attributes))
    return attributes


class _ColumnWriter:
    """Writes one column in whole files, however its values arrive."""

    def __init__(self, group: zarr.Group, column: Column, rows: Mapping[str, int]) -> None:
        self._column = column
        self._layout = layout(column, column_rows(column, rows))
        self._array = create_column(group, column, self._layout.rows)
        self._pending: list[NDArray[Any]] = []
        self._pending_rows = 0
        self._written_rows = 0
        self._digest = xxhash.xxh3_128()
        self._pointed_rows = 0
        if column.points_into:
            self._take(np.zeros(1, dtype=np.int64))

    def append(self, values: NDArray[Any]) -> None:
        """Add a shard's values; its offsets count from its own beginning."""
        if self._column.points_into:
            values = values[1:] + self._pointed_rows
            self._pointed_rows = int(values[-1]) if len(values) else self._pointed_rows
        self._take(values)

    def finish(self) -> str:
        """Write what is left; returns the digest of all values."""
        if self._pending_rows:
            self._write(self._pending_rows)
        if self._written_rows != self._layout.rows:
            raise StoreError(f"{self._column.name}: a shard changed while it was being sealed. Seal again.")
        return self._digest.hexdigest()

    def _take(self, values: NDArray[Any]) -> None:
        self._digest.update(values.tobytes())
        self._pending.append(values)
        self._pending_rows += len(values)
        while self._pending_rows >= self._layout.shard_rows:
            self._write(self._layout.shard_rows)

    def _write(self, rows: int) -> None:
        joined = np.concatenate(self._pending)
        self._array[self._written_rows : self._written_rows + rows] = joined[:rows]
        self._written_rows += rows
        self._pending = [joined[rows:].copy()]
        self._pending_rows -= rows
