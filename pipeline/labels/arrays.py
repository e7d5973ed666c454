"""The Zarr arrays of stores of columns, in the layout and with the codecs that `chunks.ColumnReader` reads."""

from __future__ import annotations

from typing import Any

import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from pipeline.labels.schema import Column, layout

_ZSTD_LEVEL = 3


def create_column(group: zarr.Group, column: Column, rows: int) -> zarr.Array[Any]:
    """An array of so many rows; writing rows that begin and end with a file's touches that file alone."""
    cut = layout(column, rows)
    return group.create_array(
        column.name,
        shape=(rows, *column.row_shape),
        dtype=column.dtype,
        chunks=(cut.chunk_rows, *column.row_shape),
        shards=(cut.shard_rows, *column.row_shape),
        compressors=[ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
        fill_value=0,
        dimension_names=(column.table, *(None,) * len(column.row_shape)),
        attributes={"meaning": column.meaning},
        # A chunk that is not there would read as zeros: with all of them there, a lost one can be told.
        config={"write_empty_chunks": True},
    )
