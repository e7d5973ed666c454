"""Writes the Zarr arrays of a table, with the layout and the codecs that `column_reader.ColumnReader` reads.

zarr takes half a second to import: functions that write import it, so that workers start without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.tables.columns import Column, layout

if TYPE_CHECKING:
    import zarr

_ZSTD_LEVEL = 3


def create_table(path: Path) -> zarr.Group:
    """Make the Zarr group of a table, without columns."""
    import zarr

    return zarr.create_group(path)


def create_column(group: zarr.Group, column: Column, rows: int) -> zarr.Array[Any]:
    """Make an array of so many rows; writing the rows of one file touches that file alone."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    cut = layout(column, rows)
    return group.create_array(
        column.name,
        shape=(rows, *column.row_shape),
        dtype=column.dtype,
        chunks=(cut.chunk_rows, *column.row_shape),
        shards=(cut.file_rows, *column.row_shape),
        compressors=[ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
        fill_value=0,
        dimension_names=(column.table, *(None,) * len(column.row_shape)),
        attributes={"meaning": column.meaning},
        # A missing chunk would read as zeros: write all chunks, so that a lost one is noticed.
        config={"write_empty_chunks": True},
    )


class ColumnWriter:
    """Writes one column in whole files, from shards of any size."""

    def __init__(self, group: zarr.Group, column: Column, rows: int) -> None:
        self._column = column
        self._layout = layout(column, rows)
        self._array = create_column(group, column, rows)
        self._pending: list[NDArray[Any]] = []
        self._pending_rows = 0
        self._written_rows = 0
        self._digest = xxhash.xxh3_128()
        self._pointed_rows = 0
        if column.points_into:
            self._add(np.zeros(1, dtype=np.int64))

    def append(self, values: NDArray[Any]) -> None:
        """Add a shard's values; offsets count from the beginning of the shard."""
        if self._column.points_into:
            values = values[1:] + self._pointed_rows
            self._pointed_rows = int(values[-1]) if len(values) else self._pointed_rows
        self._add(values)

    def finish(self) -> str:
        """Write the remaining rows; return the digest of all values."""
        if self._pending_rows:
            self._write(self._pending_rows)
        if self._written_rows != self._layout.rows:
            raise StoreError(f"{self._column.name}: a shard changed while it was being sealed. Seal again.")
        return self._digest.hexdigest()

    def _add(self, values: NDArray[Any]) -> None:
        self._digest.update(values.tobytes())
        self._pending.append(values)
        self._pending_rows += len(values)
        while self._pending_rows >= self._layout.file_rows:
            self._write(self._layout.file_rows)

    def _write(self, rows: int) -> None:
        joined = np.concatenate(self._pending)
        self._array[self._written_rows : self._written_rows + rows] = joined[:rows]
        self._written_rows += rows
        self._pending = [joined[rows:].copy()]
        self._pending_rows -= rows
