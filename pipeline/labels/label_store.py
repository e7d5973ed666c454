"""Reading a sealed label store: lazily, a chunk at a time, from as many processes as there are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.labels.attributes import StoreAttributes, read_attributes
from pipeline.labels.chunks import ColumnReader
from pipeline.labels.columns import rows_from_columns
from pipeline.labels.rows import ImageLabels
from pipeline.labels.schema import COLUMNS, DECISIONS, STATUSES, column_rows

# Chunks are at most 64 KiB: this is at most 64 MiB a process, and holds all small columns of a million
# instances, so that an image anywhere in the store costs little more than the chunk that holds its masks.
_CACHED_CHUNKS = 1024
_IMAGES_AT_ONCE = 64


class LabelStore:
    """A sealed store of labels. Images have positions, 0 to len - 1, in the order of the store.

    May be pickled, forked and shared by threads.
    """

    def __init__(self, path: Path, attributes: StoreAttributes) -> None:
        self.path = path
        self.attributes = attributes
        self._readers = {
            name: ColumnReader(path, column, column_rows(column, attributes.rows)) for name, column in COLUMNS.items()
        }
        self._chunk = lru_cache(_CACHED_CHUNKS)(self._read_chunk)

    @classmethod
    def open(cls, path: Path) -> LabelStore:
        """Open the store at a path; StoreError where there is none that this program can read."""
        return cls(path, read_attributes(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return LabelStore, (self.path, self.attributes)

    def __len__(self) -> int:
        return self.attributes.images

    def __iter__(self) -> Iterator[ImageLabels]:
        for start in range(0, len(self), _IMAGES_AT_ONCE):
            yield from self.rows(start, start + _IMAGES_AT_ONCE)

    def __getitem__(self, position: int) -> ImageLabels:
        """The labels of the image at a position; negative ones count from the end."""
        index = range(len(self))[position]
        return self._rows(index, index + 1)[0]

    def rows(self, start: int, end: int) -> list[ImageLabels]:
        """The labels of the images from one position to before another; both are cut to what is there."""
        wanted = range(len(self))[start:end]
        return self._rows(wanted.start, wanted.stop) if wanted else []

    def by_id(self, image_id: int) -> ImageLabels:
        """The labels of an image; StoreError where the store does not have it."""
        return self[self.position(image_id)]

    def by_name(self, file_name: str) -> ImageLabels:
        """The labels of the image of a file name, the last of several; StoreError where there is none."""
        try:
            return self[self._position_by_name[file_name]]
        except KeyError as error:
            raise StoreError(f"{self.path}: there is no image named {file_name!r}.") from error

    def position(self, image_id: int) -> int:
        """Where an image is in the store; StoreError where it is not."""
        sorted_ids, positions = self._sorted_ids
        place = int(np.searchsorted(sorted_ids, image_id))
        if place == len(sorted_ids) or sorted_ids[place] != image_id:
            raise StoreError(f"{self.path}: there is no image with the id {image_id}.")
        return int(positions[place])

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """The ids of all images, in the order of the store."""
        return self.column("images/id")

    def column(self, name: str) -> NDArray[Any]:
        """All values of a column (see `schema.COLUMNS`)."""
        reader = self._readers[name]
        return np.concatenate([reader.no_rows, *reader.chunks()])

    def file_names(self) -> list[str]:
        """The file names of all images, in the order of the store."""
        joined = self.column("images/file_name_bytes").tobytes()
        offsets = self.column("images/file_name_offsets").tolist()
        return [joined[start:end].decode("utf-8", "surrogateescape") for start, end in pairwise(offsets)]

    @cached_property
    def _sorted_ids(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        positions = np.argsort(self.image_ids, kind="stable")
        return self.image_ids[positions], positions

    @cached_property
    def _position_by_name(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.file_names())}

    def _rows(self, start: int, end: int) -> list[ImageLabels]:
        columns: dict[str, NDArray[Any]] = {}
        wanted = {"image": (start, end)}
        for name, column in COLUMNS.items():  # offsets come ahead of the table they point into
            first, last = wanted[column.table]
            values = self._slice(name, first, last + bool(column.points_into))
            if column.points_into:
                wanted[column.points_into] = (int(values[0]), int(values[-1]))
                values = values - values[0]
            columns[name] = values
        return rows_from_columns(columns)

    def _slice(self, name: str, start: int, end: int) -> NDArray[Any]:
        reader = self._readers[name]
        if start == end:
            return reader.no_rows
        chunk_rows = reader.layout.chunk_rows
        parts = [
            self._chunk(name, number)[max(start - number * chunk_rows, 0) : end - number * chunk_rows]
            for number in range(start // chunk_rows, (end - 1) // chunk_rows + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read_chunk(self, name: str, number: int) -> NDArray[Any]:
        return self._readers[name].chunk(number)


def verify(path: Path) -> list[str]:
    """Read a whole store again; one line for everything that is not as it was sealed.

    StoreError where the attributes, which say what was sealed, are damaged or not there.
    """
    attributes = read_attributes(path)
    problems: list[str] = []
    for name, column in COLUMNS.items():
        digest = xxhash.xxh3_128()
        try:
            for values in ColumnReader(path, column, column_rows(column, attributes.rows)).chunks():
                digest.update(values.tobytes())
        except StoreError as error:
            problems.append(str(error))
            continue
        if digest.hexdigest() != attributes.column_digests.get(name):
            problems.append(f"{path}: column {name} does not hold the values that were sealed.")
    return problems or _wrong_counts(LabelStore(path, attributes))


def _wrong_counts(store: LabelStore) -> list[str]:
    """Which counts in the attributes are not those of the columns; no digest covers them."""
    attributes = store.attributes
    counted = (
        ("statuses", attributes.statuses, "images/status", STATUSES),
        ("decisions", attributes.decisions, "instances/decision", DECISIONS),
    )
    return [
        f"{store.path}: the attribute {name} does not hold the counts of the column {column}."
        for name, counts, column, kinds in counted
        if np.bincount(store.column(column), minlength=len(kinds)).tolist() != [counts[str(kind)] for kind in kinds]
    ]
