"""Shard files: the rows of a few ids in one file, the unit in which a table is made.

A shard is one file, so that its rename publishes data and completion record together: a file with its final name is
whole. Its first line is JSON that describes it (`head -1` shows it); the rest is the shard's columns, as MessagePack,
compressed. Its name has a digest of its ids, so that a run that divides ids differently does not use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.files.disk import explained_if_full
from pipeline.files.writing import open_atomically
from pipeline.tables.columns import ColumnData, table_rows
from pipeline.tables.table_format import TableFormat

_SUFFIX = ".shard"
_ZSTD = Zstd(level=1)  # shards exist for hours: speed matters more than size

ShardPlan = Sequence[Sequence[int]]
"""The ids of every shard: shards in the order of the table, ids in that of the shard."""


class ShardHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The first line of a shard file.

    rows: length of every table. counts: number of rows of each kind, by attribute (see `TableFormat.counts`); empty in
    shards of earlier versions. digest: of all that follows the line.
    """

    format: str
    version: int
    sizes: dict[str, int] = {}
    rows: dict[str, int]
    counts: dict[str, dict[str, int]] = {}
    digest: str


def divide(ids: Sequence[int], ids_per_shard: int) -> tuple[tuple[int, ...], ...]:
    """Return ids in shards of the same size; the last may be smaller."""
    return tuple(tuple(ids[start : start + ids_per_shard]) for start in range(0, len(ids), ids_per_shard))


def shard_path(folder: Path, index: int, ids: Sequence[int]) -> Path:
    """Return the path of a shard."""
    digest = xxhash.xxh3_64_hexdigest(np.asarray(ids, dtype="<i8").tobytes())
    return folder / f"{index:06d}-{digest}{_SUFFIX}"


def completed_shards(folder: Path, plan: ShardPlan) -> frozenset[int]:
    """Return which shards of a plan exist; unfinished files of killed writers do not count."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except FileNotFoundError:
        return frozenset()
    return frozenset(index for index, ids in enumerate(plan) if shard_path(folder, index, ids).name in names)


def write_shard(table_format: TableFormat[Any], folder: Path, index: int, columns: ColumnData) -> Path:
    """Publish a shard, atomically; the first of two writers wins. Raise StageError if the disk is full."""
    path = shard_path(folder, index, columns[table_format.ids].tolist())
    content = _encode(table_format, columns)
    with explained_if_full(path, len(content)), open_atomically(path, keep_existing=True) as file:
        file.write(content)
    return path


def read_shard(table_format: TableFormat[Any], folder: Path, index: int, ids: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Return the columns of a shard; raise StoreError if it is missing, damaged or of another format."""
    path = shard_path(folder, index, ids)
    try:
        header, payload = _split(table_format, path, path.read_bytes())
    except FileNotFoundError as error:
        raise _missing(path) from error
    if xxhash.xxh3_128_hexdigest(payload) != header.digest:
        raise _damaged(path, "its content does not match its digest")
    encoded = msgspec.msgpack.decode(_ZSTD.decode(payload), type=dict[str, bytes])
    columns = {
        column.name: np.frombuffer(encoded[column.name], dtype=column.dtype).reshape(-1, *column.row_shape)
        for column in table_format.columns_in_shards
    }
    rows = table_rows(table_format.columns_in_shards, columns)
    counts_differ = header.counts and header.counts != _counts(table_format, columns)
    if rows != header.rows or counts_differ or columns[table_format.ids].tolist() != list(ids):
        raise _damaged(path, "it does not hold what it should")
    return columns


def shard_rows(table_format: TableFormat[Any], folder: Path, index: int, ids: Sequence[int]) -> dict[str, int]:
    """Return the length of every table of a shard, from its first line."""
    return _header(table_format, shard_path(folder, index, ids)).rows


def shard_counts(
    table_format: TableFormat[Any], folder: Path, index: int, ids: Sequence[int], attribute: str
) -> Mapping[str, int]:
    """Return the number of rows of each kind of a shard, from its first line."""
    return _header(table_format, shard_path(folder, index, ids)).counts.get(attribute, {})


def _header(table_format: TableFormat[Any], path: Path) -> ShardHeader:
    try:
        with path.open("rb") as file:
            return _split(table_format, path, file.readline())[0]
    except FileNotFoundError as error:
        raise _missing(path) from error


def _encode(table_format: TableFormat[Any], columns: ColumnData) -> bytes:
    inside = table_format.columns_in_shards
    payload = _ZSTD.encode(msgspec.msgpack.encode({column.name: columns[column.name].tobytes() for column in inside}))
    header = ShardHeader(
        format=table_format.name,
        version=table_format.version,
        sizes=dict(table_format.sizes),
        rows=table_rows(inside, columns),
        counts=_counts(table_format, columns),
        digest=xxhash.xxh3_128_hexdigest(payload),
    )
    return msgspec.json.encode(header) + b"\n" + bytes(payload)


def _counts(table_format: TableFormat[Any], columns: ColumnData) -> dict[str, dict[str, int]]:
    return {counted.attribute: counted.of(columns[counted.column]) for counted in table_format.counts}


def _split(table_format: TableFormat[Any], path: Path, content: bytes) -> tuple[ShardHeader, memoryview]:
    line, _, _ = content.partition(b"\n")
    try:
        header = msgspec.json.decode(line, type=ShardHeader)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, "its first line is not that of a shard") from error
    found = _named(header.format, header.version, header.sizes)
    wanted = _named(table_format.name, table_format.version, table_format.sizes)
    if found != wanted:
        raise StoreError(
            f"{path}: a shard of {found}; this program writes and reads {wanted} here. "
            f"Delete the folder {path.parent} to make its {table_format.content} again."
        )
    return header, memoryview(content)[len(line) + 1 :]


def _named(name: str, version: int, sizes: Mapping[str, int]) -> str:
    with_sizes = ", ".join(f"{size} {value}" for size, value in sorted(sizes.items()))
    return f"{name} {version}" + (f" with {with_sizes}" if with_sizes else "")


def _missing(path: Path) -> StoreError:
    return StoreError(f"{path}: the shard is missing. Run the stage again: it makes what is missing.")


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path}: the shard is damaged: {reason}. Delete the file and run the stage again: the other shards are kept."
    )
