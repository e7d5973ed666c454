"""Reading sealed structural targets: an image at a time, from as many processes as there are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.labels.chunks import ColumnReader
from pipeline.labels.rows import Status
from pipeline.structure.schema import (
    FORMAT,
    FORMAT_VERSION,
    MAP_SIDE,
    STATUSES,
    ImageTargets,
    columns_of,
    rows_from_columns,
)


class StructureAttributes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a store says of itself, in the attributes of its Zarr group.

    digest: of the content, the same whatever the workers were; provenance is no part of it.
    lengths: bytes of all file names and of all messages. statuses: how many images have each.
    """

    format: str
    version: int
    digest: str
    images: int
    anchors: int
    side: int
    statuses: dict[str, int]
    lengths: dict[str, int]
    provenance: dict[str, Any]


class _Format(msgspec.Struct):
    format: str
    version: int


class _GroupMetadata(msgspec.Struct):
    attributes: msgspec.Raw


class StructureStore:
    """A sealed store of structural targets. May be pickled, forked and shared by threads; it keeps no file open."""

    def __init__(self, path: Path, attributes: StructureAttributes) -> None:
        self.path = path
        self.attributes = attributes
        self._readers = {
            name: ColumnReader(path, column, attributes.lengths.get(name, attributes.images + bool(column.points_into)))
            for name, column in columns_of(attributes.anchors).items()
        }

    @classmethod
    def open(cls, path: Path) -> StructureStore:
        """Open the store at a path; StoreError where there is none that this program can read."""
        return cls(path, _read_attributes(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return StructureStore, (self.path, self.attributes)

    def __len__(self) -> int:
        return self.attributes.images

    def __getitem__(self, position: int) -> ImageTargets:
        """The targets of the image at a position; negative ones count from the end."""
        index = range(len(self))[position]
        columns = {}
        for name, values in self._small.items():
            part, _, kind = name.rpartition("_")
            if kind == "bytes":
                start, end = self._small[f"{part}_offsets"][index : index + 2]
                columns[name] = values[start:end]
            elif kind == "offsets":
                columns[name] = values[index : index + 2] - values[index]
            else:
                columns[name] = values[index : index + 1]
        reader = self._readers["maps"]
        chunk, place = divmod(index, reader.layout.chunk_rows)
        columns["maps"] = reader.chunk(chunk)[place : place + 1]
        return rows_from_columns(columns)[0]

    def failed(self) -> Iterator[ImageTargets]:
        """The images that could not be used."""
        if self.attributes.statuses.get(str(Status.FAILED)):
            for place in np.flatnonzero(self._small["status"] == STATUSES.index(Status.FAILED)).tolist():
                yield self[place]

    def by_id(self, image_id: int) -> ImageTargets:
        """The targets of an image; StoreError where the store does not have it."""
        try:
            return self[self._position_by_id[image_id]]
        except KeyError as error:
            raise StoreError(f"{self.path}: there is no image with the id {image_id}.") from error

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The ids of all images, in the order of the store."""
        return tuple(self._position_by_id)

    @cached_property
    def _small(self) -> dict[str, NDArray[Any]]:
        """All columns but the maps, whole: about a kilobyte an image."""
        return {
            name: np.concatenate([reader.no_rows, *reader.chunks()])
            for name, reader in self._readers.items()
            if name != "maps"
        }

    @cached_property
    def _position_by_id(self) -> dict[int, int]:
        return {image_id: position for position, image_id in enumerate(self._small["id"].tolist())}


def _read_attributes(store_path: Path) -> StructureAttributes:
    path = store_path / "zarr.json"
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=_GroupMetadata).attributes
        given = msgspec.json.decode(raw, type=_Format)
        if (given.format, given.version) != (FORMAT, FORMAT_VERSION):
            raise StoreError(
                f"{store_path}: holds {given.format} {given.version}, this program reads {FORMAT} {FORMAT_VERSION}. "
                "Make the structural targets again: make distill."
            )
        attributes = msgspec.json.decode(raw, type=StructureAttributes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"{store_path}: there are no structural targets.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: these are no structural targets, or they are damaged ({error}).") from error
    if attributes.side != MAP_SIDE:
        raise StoreError(f"{store_path}: maps of side {attributes.side}, this program reads {MAP_SIDE}: make distill.")
    return attributes
