"""Columns: the content of one array of a table, its chunks and files; texts and offsets as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ColumnData = Mapping[str, NDArray[Any]]
"""Column values by column name; offsets count from the first of these rows."""

CHUNK_BYTES: Final = 1 << 16
"""A chunk has at most this size, unless a single row is larger."""
# Reading a row decodes one chunk; a file (a shard, in Zarr's words) holds many chunks. Only bulk columns have large
# files, since sealing holds one file of every column in memory.
_CHUNKS_PER_FILE: Final = 16
_CHUNKS_PER_BULK_FILE: Final = 256


@dataclass(frozen=True)
class Column:
    """One array of a table.

    name: its path in the Zarr group.
    table: the table that its rows belong to.
    row_shape: the shape of one row; the array has one axis more, the first.
    sized_by: names of sides of a row before `row_shape`; every table sets their sizes (`TableFormat.with_sizes`).
    points_into: for offsets, the table that they point into. Row i of the column's own table owns its rows from
        offsets[i] to offsets[i + 1], so that an offsets column has one row more than its table.
    bulk: whether the column has most of the table's bytes, and large files.
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
        """Return the size of one row in memory."""
        return np.dtype(self.dtype).itemsize * prod(self.row_shape)

    @property
    def no_rows(self) -> NDArray[Any]:
        """Return an empty array of such rows."""
        return np.empty((0, *self.row_shape), dtype=self.dtype)

    def with_sizes(self, sizes: Mapping[str, int]) -> Column:
        """Return the column with the sides of its rows set."""
        return replace(self, row_shape=(*(sizes[name] for name in self.sized_by), *self.row_shape), sized_by=())


@dataclass(frozen=True)
class Layout:
    """The division of a column into chunks and files. All counts are rows; a file is a whole number of chunks."""

    rows: int
    chunk_rows: int
    file_rows: int


def layout(column: Column, rows: int) -> Layout:
    """Return the layout of a column, which depends only on the column and its length."""
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
    """Return where each of consecutive items of these lengths begins, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def text_columns(name: str, table: str, one: str, meaning: str) -> tuple[Column, Column]:
    """Declare the two columns of a text for every row of a table. one: the word for such a text."""
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
    # File names may be invalid Unicode; Python stores the invalid bytes as surrogates.
    return bytes_values(name, [text.encode("utf-8", "surrogateescape") for text in texts])


def texts_of(name: str, columns: ColumnData) -> list[str]:
    """Return the texts of `text_columns`."""
    joined = columns[f"{name}_bytes"].tobytes()
    offsets = pairwise(columns[f"{name}_offsets"].tolist())
    return [joined[start:end].decode("utf-8", "surrogateescape") for start, end in offsets]
