"""Seals shards into one flat, immutable Zarr table, with the same memory for few rows and for many."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from pipeline.errors import StoreError
from pipeline.files.disk import explained_if_full
from pipeline.files.leftovers import scratch_prefix
from pipeline.files.scratch import scratch_beside
from pipeline.files.writing import make_folder, sync_folder, sync_tree
from pipeline.tables.attributes import content_digest
from pipeline.tables.column_writer import ColumnWriter, create_table
from pipeline.tables.columns import ColumnData, column_rows
from pipeline.tables.shard_files import ShardPlan, completed_shards, read_shard, shard_path, shard_rows, write_shard
from pipeline.tables.table_format import A, TableFormat

if TYPE_CHECKING:
    import zarr

Facts = Mapping[str, Any]
"""JSON values of a format's `facts`, by attribute."""


@dataclass(frozen=True)
class WrittenColumns:
    """The facts about columns on disk: lengths of their tables, digests, and the number of each code in a column."""

    rows: Mapping[str, int]
    digests: Mapping[str, str]
    counts: Mapping[str, Mapping[str, int]]


def seal(
    table_format: TableFormat[A],
    shards_folder: Path,
    plan: ShardPlan,
    store_path: Path,
    facts: Facts,
    provenance: Mapping[str, Any],
) -> A:
    """Make the table of all shards of a plan, in its order; it gets its name whole or not at all.

    It is written within the shards' folder first, which must be on the same file system. The shards stay: remove their
    folder afterwards. provenance: JSON that says what made the table.
    """
    _require_absent(table_format, store_path)
    make_folder(shards_folder)
    rows = planned_rows(table_format, shards_folder, plan)
    scratch = Path(tempfile.mkdtemp(prefix=scratch_prefix(store_path.name), dir=shards_folder))
    try:
        with explained_if_full(store_path, _size(shards_folder, plan)):
            aside = scratch / store_path.name
            group = create_table(aside)
            written = write_columns(group, table_format, shards_folder, plan, rows)
            attributes = write_attributes(group, table_format, written, facts, provenance)
            sync_tree(aside)
            try:
                aside.rename(store_path)
            except OSError:
                _require_absent(table_format, store_path)  # another process was faster
                raise
            sync_folder(store_path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return attributes


def write_table(
    table_format: TableFormat[A],
    store_path: Path,
    parts: Iterable[ColumnData],
    facts: Facts,
    provenance: Mapping[str, Any],
) -> A:
    """Make a table of given rows, such as imported ones, in their order, with one part in memory at a time."""
    with scratch_beside(store_path) as scratch:
        plan: list[list[int]] = []
        for part in parts:
            write_shard(table_format, scratch, len(plan), part)
            plan.append(part[table_format.ids].tolist())
        return seal(table_format, scratch, plan, store_path, facts, provenance)


def planned_rows(table_format: TableFormat[Any], shards_folder: Path, plan: ShardPlan) -> dict[str, int]:
    """Return the length of every table; raise StoreError for a missing shard or a repeated id."""
    missing = sorted(set(range(len(plan))) - completed_shards(shards_folder, plan))
    if missing:
        raise StoreError(
            f"{shards_folder}: {len(missing)} of {len(plan)} shards are missing, the first is number "
            f"{missing[0]}. Run the stage again: it makes what is missing."
        )
    repeated = [each for each, count in Counter(chain.from_iterable(plan)).items() if count > 1]
    if repeated:
        raise StoreError(f"{shards_folder}: {table_format.main_table} {repeated[0]} is in the plan more than once.")
    rows = dict.fromkeys((column.table for column in table_format.columns_in_shards), 0)
    for index, ids in enumerate(plan):
        for table, count in shard_rows(table_format, shards_folder, index, ids).items():
            rows[table] += count
    return rows


def write_columns(
    group: zarr.Group, table_format: TableFormat[Any], shards_folder: Path, plan: ShardPlan, rows: Mapping[str, int]
) -> WrittenColumns:
    """Write the columns of all shards into a table's group."""
    inside = table_format.columns_in_shards
    for name in sorted({column.name.partition("/")[0] for column in inside if "/" in column.name}):
        group.require_group(name)
    writers = {column.name: ColumnWriter(group, column, column_rows(column, rows)) for column in inside}
    totals = {counted.attribute: np.zeros(len(counted.kinds), np.int64) for counted in table_format.counts}
    for index, ids in enumerate(plan):
        columns = read_shard(table_format, shards_folder, index, ids)
        for counted in table_format.counts:
            totals[counted.attribute] += np.bincount(columns[counted.column], minlength=len(counted.kinds))
        for name, values in columns.items():
            writers[name].append(values)
    counts = {
        counted.attribute: dict(zip(counted.kinds, totals[counted.attribute].tolist(), strict=True))
        for counted in table_format.counts
    }
    return WrittenColumns(rows, {name: writer.finish() for name, writer in writers.items()}, counts)


def write_attributes(
    group: zarr.Group,
    table_format: TableFormat[A],
    written: WrittenColumns,
    facts: Facts,
    provenance: Mapping[str, Any],
) -> A:
    """Write the attributes of a table, which complete it."""
    values = {
        "format": table_format.name,
        "version": table_format.version,
        "digest": content_digest(
            table_format, written.digests, written.rows, [facts[name] for name in table_format.facts]
        ),
        **({"sizes": dict(table_format.sizes)} if table_format.sizes else {}),
        "rows": dict(written.rows),
        **written.counts,
        **facts,
        "column_digests": {column.name: written.digests[column.name] for column in table_format.columns},
        "provenance": dict(provenance),
    }
    group.update_attributes(values)
    return msgspec.convert(values, table_format.attributes)


def _require_absent(table_format: TableFormat[Any], store_path: Path) -> None:
    if store_path.exists():
        raise StoreError(
            f"{store_path} already exists, and sealed {table_format.content} never change: remove it first."
        )


def _size(shards_folder: Path, plan: ShardPlan) -> int:
    """Return the bytes of all shards; the table needs about as many."""
    return sum(shard_path(shards_folder, index, ids).stat().st_size for index, ids in enumerate(plan))
