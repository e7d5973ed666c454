"""Columns: what one array of a table holds, how it is cut into chunks and files; texts and offsets as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ColumnData = Mapping[str, NDArray[Any]]
"""Column values by column name; offsets count from the first row that is there."""

CHUNK_BYTES: Final = 1 << 16
"""A chunk has at most this size, unless a single row is larger."""
# One chunk is what reading any row costs to decode; a file (a shard in Zarr's language) holds many chunks. Bulk columns
# get large files; the others stay small, so that sealing, which holds one file of every column in memory, needs the
# same memory for few rows and for many.
_CHUNKS_PER_FILE: Final = 16
_CHUNKS_PER_BULK_FILE: Final = 256


@dataclass(frozen=True)
class Column:
    """One array of a table.

    name: its path in the Zarr group.
    table: what one row of it is about.
    row_shape: the shape of one row; the array has one more axis ahead.
    sized_by: names of sides of a row ahead of `row_shape`; every table sets them for itself (`TableFormat.with_sizes`).
    points_into: for offsets, the table they point into. Row i of the column's own table owns the rows
        from offsets[i] to offsets[i + 1] there, so that an offsets column has one row more than its table.
    bulk: whether most of the table's bytes are here, so that large files are right.
    in_place: whether its values are written straight into the final array, see `in_place.TableInPlace`.
    """

    name: str
    table: str
    dtype: str
    meaning: str
    row_shape: tuple[int, ...] = ()
    sized_by: tuple[str, ...] = ()
    points_into: str = ""
    bulk: bool = False
    in_place: bool = False

    @property
    def row_bytes(self) -> int:
        """Size of one row in memory."""
        return np.dtype(self.dtype).itemsize * prod(self.row_shape)

    @property
    def no_rows(self) -> NDArray[Any]:
        """An empty array of such rows."""
        return np.empty((0, *self.row_shape), dtype=self.dtype)

    def with_sizes(self, sizes: Mapping[str, int]) -> Column:
        """Return the column with sides of its rows set."""
        return replace(self, row_shape=(*(sizes[name] for name in self.sized_by), *self.row_shape), sized_by=())


@dataclass(frozen=True)
class Layout:
    """How a column of a given length is cut. All counts are rows; a file is a whole number of chunks."""

    rows: int
    chunk_rows: int
    file_rows: int


def layout(column: Column, rows: int) -> Layout:
    """Return the layout of a column; it follows from nothing but the column and its length."""
    chunk_rows = max(1, min(CHUNK_BYTES // column.row_bytes, rows))
    most_chunks = _CHUNKS_PER_BULK_FILE if column.bulk else _CHUNKS_PER_FILE
    return Layout(rows, chunk_rows, chunk_rows * min(most_chunks, max(1, ceil(rows / chunk_rows))))


def column_rows(column: Column, table_rows: Mapping[str, int]) -> int:
    """Return the length of a column, given the length of every table."""
    return table_rows[column.table] + bool(column.points_into)


def table_rows(columns: Iterable[Column], values: ColumnData) -> dict[str, int]:
    """Return the length of every table, given the values of columns."""
    return {column.table: len(values[column.name]) for column in columns if not column.points_into}


def as_columns(columns: Iterable[Column], values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return values, lists or arrays by column name, as arrays of the columns' types and shapes."""
    return {
        column.name: np.asarray(values[column.name], dtype=column.dtype).reshape(-1, *column.row_shape)
        for column in columns
    }


def offsets_of(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return where things of these lengths begin when they lie end to end, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def text_columns(name: str, table: str, one: str, meaning: str) -> tuple[Column, Column]:
    """Declare the two columns of a text for every row of a table; `one` is what to call such a text."""
    bytes_name = f"{name}_bytes"
    starts = f"where each {one} begins in {bytes_name.rpartition('/')[2]}"
    return (
        Column(f"{name}_offsets", table, "int64", starts, points_into=f"{one} byte"),
        Column(bytes_name, f"{one} byte", "uint8", meaning),
    )


def bytes_values(name: str, contents: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """Return the values of the offsets and bytes columns of a name: contents end to end."""
    return {
        f"{name}_offsets": offsets_of([len(content) for content in contents]),
        f"{name}_bytes": np.frombuffer(b"".join(contents), dtype=np.uint8),
    }


def text_values(name: str, texts: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the values of `text_columns`, in UTF-8."""
    # Names that are not valid Unicode exist on disks; Python has them as surrogates.
    return bytes_values(name, [text.encode("utf-8", "surrogateescape") for text in texts])


def texts_of(name: str, columns: ColumnData) -> list[str]:
    """Return the texts of `text_columns`."""
    joined = columns[f"{name}_bytes"].tobytes()
    offsets = pairwise(columns[f"{name}_offsets"].tolist())
    return [joined[start:end].decode("utf-8", "surrogateescape") for start, end in offsets]
