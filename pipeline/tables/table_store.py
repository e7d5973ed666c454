"""Reads a sealed table lazily, a chunk at a time, from any number of processes."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.tables.attributes import format_of, read_attributes
from pipeline.tables.column_reader import ColumnReader
from pipeline.tables.columns import CHUNK_BYTES, column_rows
from pipeline.tables.table_format import A, TableFormat

# Chunks have at most 64 KiB: at most 64 MiB a process, enough for all small columns of a million rows, so that reading
# a row costs little more than the chunk with its bulk.
_CACHED_CHUNKS = 1024


class TableStore(Generic[A]):
    """A sealed table. The rows of its main table have positions, 0 to len - 1, in the order of the table.

    It may be pickled, forked and shared by threads; it keeps no file open. A subclass sets its format.
    """

    table_format: ClassVar[TableFormat[Any]]

    def __init__(self, path: Path, attributes: A) -> None:
        self.path = path
        self.attributes = attributes
        self._format: TableFormat[A] = format_of(self.table_format, attributes)
        self._readers = {
            column.name: ColumnReader(path, column, column_rows(column, attributes.rows))
            for column in self._format.columns
        }
        kept = lru_cache(_CACHED_CHUNKS)(self._read_chunk)
        # A row larger than `CHUNK_BYTES` has its own chunk, which reading other rows does not use.
        self._chunk = {
            column.name: kept if column.row_bytes <= CHUNK_BYTES else self._read_chunk
            for column in self._format.columns
        }

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the table at a path; raise StoreError if this program cannot read it."""
        return cls(path, read_attributes(path, cls.table_format))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.attributes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __len__(self) -> int:
        return self.attributes.rows[self._format.main_table]

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """Return the ids of all rows of the main table, in their order."""
        return self.column(self._format.ids)

    def column(self, name: str) -> NDArray[Any]:
        """Return all values of a column."""
        reader = self._readers[name]
        return np.concatenate([reader.column.no_rows, *reader.chunks()])

    def find(self, row_id: int) -> int | None:
        """Return the position of an id; None if the table does not have it."""
        sorted_ids, positions = self._sorted_ids
        index = int(np.searchsorted(sorted_ids, row_id))
        if index == len(sorted_ids) or sorted_ids[index] != row_id:
            return None
        return int(positions[index])

    def position(self, row_id: int) -> int:
        """Return the position of an id; raise StoreError if the table does not have it."""
        position = self.find(row_id)
        if position is None:
            raise StoreError(f"{self.path}: there is no {self._format.main_table} with the id {row_id}.")
        return position

    def columns_of(self, start: int, end: int) -> dict[str, NDArray[Any]]:
        """Return all columns of the rows from `start` to before `end`, and of their rows in other tables.

        Offsets count from the first returned row.
        """
        columns: dict[str, NDArray[Any]] = {}
        wanted = {self._format.main_table: (start, end)}
        for column in self._format.columns:  # offsets come before the table that they point into
            first, last = wanted[column.table]
            values = self.values(column.name, first, last + bool(column.points_into))
            if column.points_into:
                wanted[column.points_into] = (int(values[0]), int(values[-1]))
                values = values - values[0]
            columns[column.name] = values
        return columns

    def values(self, name: str, start: int, end: int) -> NDArray[Any]:
        """Return the values of a column from row `start` to before row `end`."""
        reader = self._readers[name]
        if start == end:
            return reader.column.no_rows
        chunk, chunk_rows = self._chunk[name], reader.layout.chunk_rows
        parts = [
            chunk(name, number)[max(start - number * chunk_rows, 0) : end - number * chunk_rows]
            for number in range(start // chunk_rows, (end - 1) // chunk_rows + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read_chunk(self, name: str, number: int) -> NDArray[Any]:
        return self._readers[name].chunk(number)

    @cached_property
    def _sorted_ids(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        positions = np.argsort(self.ids, kind="stable")
        return self.ids[positions], positions
