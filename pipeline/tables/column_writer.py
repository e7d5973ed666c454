"""Writing the Zarr arrays of a table, with the layout and the codecs that `column_reader.ColumnReader` reads.

zarr takes half a second to import: it is imported where something is written, not where a worker starts.
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
    """Make an array of so many rows; writing rows that begin and end with a file's touches that file alone."""
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
        # A chunk that is not there would read as zeros: with all of them there, a lost one can be told.
        config={"write_empty_chunks": True},
    )


class ColumnWriter:
    """Writes one column in whole files, however its values arrive."""

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
            self._take(np.zeros(1, dtype=np.int64))

    def append(self, values: NDArray[Any]) -> None:
        """Add a shard's values; its offsets count from its own beginning."""
        if self._column.points_into:
            values = values[1:] + self._pointed_rows
            self._pointed_rows = int(values[-1]) if len(values) else self._pointed_rows
        self._take(values)

    def finish(self) -> str:
        """Write what is left; gives the digest of all values."""
        if self._pending_rows:
            self._write(self._pending_rows)
        if self._written_rows != self._layout.rows:
            raise StoreError(f"{self._column.name}: a shard changed while it was being sealed. Seal again.")
        return self._digest.hexdigest()

    def _take(self, values: NDArray[Any]) -> None:
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
