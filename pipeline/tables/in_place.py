"""Tables that are too large to be written twice: one column goes straight into its final files, shard by shard.

A shard first writes its values of that column, which are whole files. Then it writes a shard file of the other columns,
which marks the shard as complete. Sealing writes those columns, and the attributes last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

from pipeline.errors import StoreError
from pipeline.files.disk import explained_if_full
from pipeline.files.leftovers import remove_folder
from pipeline.files.writing import sync_folder, sync_tree
from pipeline.tables.attributes import read_attributes
from pipeline.tables.column_reader import ColumnReader, chunk_file
from pipeline.tables.column_writer import create_column, create_table
from pipeline.tables.columns import Column, ColumnData, layout
from pipeline.tables.sealing import Facts, planned_rows, write_attributes, write_columns
from pipeline.tables.shard_files import ShardPlan, completed_shards, write_shard
from pipeline.tables.table_format import A, TableFormat


@dataclass(frozen=True)
class TableInPlace(Generic[A]):
    """A table that is made at its final path.

    table_format: with sizes; one column, of the main table, is `in_place`.
    shards_folder: the folder of the shard files of the other columns, removed when the table is sealed.
    """

    table_format: TableFormat[A]
    path: Path
    shards_folder: Path

    def complete(self, plan: ShardPlan) -> frozenset[int]:
        """Return which shards of a plan exist."""
        return completed_shards(self.shards_folder, plan)

    def prepare(self, plan: ShardPlan) -> None:
        """Make the empty column, unless an interrupted run made it."""
        if not self.complete(plan):
            # A run that was killed before its first shard may have left anything.
            remove_folder(self.path)
            create_column(create_table(self.path), self._column, sum(map(len, plan)))

    def write(self, index: int, first: int, columns: ColumnData) -> None:
        """Publish a shard: whole files of the column in place, then the shard file.

        first: index of its first row in the table. Raise StageError if the disk is full.
        """
        import zarr

        values = columns[self._column.name]
        with explained_if_full(self.path, values.nbytes):
            # Zarr does not store this setting: without it, a chunk of zeros would make no file.
            array = zarr.open_array(self.path / self._column.name, mode="r+").with_config({"write_empty_chunks": True})
            array[first : first + len(values)] = values
            file_rows = layout(self._column, array.shape[0]).file_rows
            for number in range(first // file_rows, -(-(first + len(values)) // file_rows)):
                file_path = self.path / chunk_file(self._column, number)
                with file_path.open("rb") as file:
                    os.fsync(file.fileno())
                sync_folder(file_path.parent)
        write_shard(self.table_format, self.shards_folder, index, columns)

    def seal(self, plan: ShardPlan, facts: Facts, provenance: Mapping[str, Any]) -> A:
        """Turn the shards into a table that can be opened; raise StoreError if a shard is missing."""
        import zarr

        rows = planned_rows(self.table_format, self.shards_folder, plan)
        for left_by_killed_run in self.path.rglob("*.partial"):
            left_by_killed_run.unlink()
        group = zarr.open_group(self.path, mode="r+")
        for column in self.table_format.columns_in_shards:
            if column.name in group:
                del group[column.name]
        written = write_columns(group, self.table_format, self.shards_folder, plan, rows)
        # Several processes wrote the files of the column in place: read them again for its digest.
        column = self._column
        digests = {**written.digests, column.name: ColumnReader(self.path, column, rows[column.table]).digest()}
        sync_tree(self.path)  # before the attributes, which mark the table as complete: see `sealed`
        attributes = write_attributes(group, self.table_format, replace(written, digests=digests), facts, provenance)
        sync_tree(self.path)
        remove_folder(self.shards_folder)
        return attributes

    def sealed(self) -> A | None:
        """Return the attributes of the table if a run sealed it, else None."""
        try:
            attributes = read_attributes(self.path, self.table_format)
        except StoreError:
            return None
        remove_folder(self.shards_folder)
        return attributes

    @property
    def _column(self) -> Column:
        (column,) = (column for column in self.table_format.columns if column.in_place)
        return column
