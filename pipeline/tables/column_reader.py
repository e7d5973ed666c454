"""Read single chunks of a column, straight from its files.

zarr reads the same files, and a test holds the two against each other; but it starts an event loop, hands
every chunk through threads and reads a file's index anew for each: milliseconds where the file and the
decompression take a tenth of one, and half a second to import in every process of a training's loader. A
store has one chain of codecs and one layout, so that what is left to do here is small.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import xxhash
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.tables.columns import Column, layout

_ZSTD = Zstd()
_CHECKSUM_BYTES = 4
_INDEX_ENTRY_BYTES = 16  # offset and length of a chunk within its file


def chunk_file(column: Column, number: int) -> Path:
    """Return where a file of a column's chunks lies within its table."""
    return Path(column.name, "c", str(number), *"0" * len(column.row_shape))


class ColumnReader:
    """One column of a table on the disk. It keeps no file open: threads and forked processes may share it."""

    def __init__(self, store_path: Path, column: Column, rows: int) -> None:
        self.column = column
        self.layout = layout(column, rows)
        self._store_path = store_path
        self._chunks_per_file = self.layout.file_rows // self.layout.chunk_rows
        self._indexes: dict[int, list[list[int]]] = {}

    def chunk(self, number: int) -> NDArray[Any]:
        """Return the rows of one chunk, read-only; StoreError where it is missing or does not match its checksum."""
        file, index = divmod(number, self._chunks_per_file)
        path = self._store_path / chunk_file(self.column, file)
        if file not in self._indexes:
            self._indexes[file] = self._read_index(path)
        offset, size = self._indexes[file][index]
        content = _ZSTD.decode(self._read(path, offset, size))
        if len(content) != self.layout.chunk_rows * self.column.row_bytes:
            raise self._damaged(path, "it does not hold what it should")
        values = np.frombuffer(content, dtype=self.column.dtype)
        return values.reshape(-1, *self.column.row_shape)[: self.layout.rows - number * self.layout.chunk_rows]

    def chunks(self) -> Iterator[NDArray[Any]]:
        """Return all chunks that hold rows, in order."""
        return map(self.chunk, range(-(-self.layout.rows // self.layout.chunk_rows)))

    def digest(self) -> str:
        """Return the xxh3-128 of all values, as a table's attributes have it."""
        digest = xxhash.xxh3_128()
        for values in self.chunks():
            digest.update(values.tobytes())
        return digest.hexdigest()

    def _read_index(self, path: Path) -> list[list[int]]:
        """Return offset and size of every chunk of a file; they lie at its end."""
        size = self._chunks_per_file * _INDEX_ENTRY_BYTES + _CHECKSUM_BYTES
        entries: list[list[int]] = np.frombuffer(self._read(path, -size, size), dtype="<u8").reshape(-1, 2).tolist()
        return entries

    def _read(self, path: Path, offset: int, size: int) -> bytes:
        """Return a part of a file, checked and without its checksum. A negative offset is from the end."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                start = offset if offset >= 0 else os.fstat(descriptor).st_size + offset
                content = os.pread(descriptor, size, max(start, 0))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._damaged(path, error.strerror or str(error)) from error
        values, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        if google_crc32c.value(values).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
            raise self._damaged(path, "its content does not match its checksum")
        return values

    def _damaged(self, path: Path, reason: str) -> StoreError:
        file = path.relative_to(self._store_path)
        return StoreError(
            f"{self._store_path}: column {self.column.name} is damaged: {file}: {reason}. "
            "Restore the store from a copy, or remove its result and make it again."
        )
