"""What a sealed store says of itself, in the attributes of its Zarr group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from pipeline.coco.model import CocoCategory
from pipeline.errors import StoreError
from pipeline.labels.schema import COLUMNS, FORMAT, FORMAT_VERSION, column_rows

ZARR_METADATA = "zarr.json"


class StoreAttributes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The attributes of a store.

    digest: of the content, the same whatever the shards and chunks were; provenance is no part of it.
    rows: the length of every table. statuses, decisions: how many images and instances have each.
    column_digests: xxh3-128 of every column's values, so that damage can be told by column.
    provenance: what made the labels, as its maker said.
    """

    format: str
    version: int
    digest: str
    rows: dict[str, int]
    statuses: dict[str, int]
    decisions: dict[str, int]
    categories: tuple[CocoCategory, ...]
    column_digests: dict[str, str]
    provenance: dict[str, Any]

    @property
    def images(self) -> int:
        """Number of images, failed ones included."""
        return self.rows["image"]

    @property
    def instances(self) -> int:
        """Number of instances, dropped ones included."""
        return self.rows["instance"]


class _Format(msgspec.Struct):
    format: str
    version: int


class _GroupMetadata(msgspec.Struct):
    attributes: msgspec.Raw


def content_digest(
    column_digests: Mapping[str, str], rows: Mapping[str, int], categories: Sequence[CocoCategory]
) -> str:
    """The digest of a store's whole content."""
    lines = [f"{FORMAT} {FORMAT_VERSION}"]
    for name, column in COLUMNS.items():
        shape = (column_rows(column, rows), *column.row_shape)
        lines.append(f"{name} {column.dtype} {shape} {column_digests[name]}")
    lines.append(msgspec.json.encode(list(categories)).decode())
    return xxhash.xxh3_128_hexdigest("\n".join(lines).encode())


def read_attributes(store_path: Path) -> StoreAttributes:
    """The attributes of the store at a path; StoreError where there is none that this program can read."""
    path = store_path / ZARR_METADATA
    try:
        group = msgspec.json.decode(path.read_bytes(), type=_GroupMetadata)
        given = msgspec.json.decode(group.attributes, type=_Format)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"{store_path}: there is no label store.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: this is not a label store, or it is damaged ({error}).") from error
    if given.format != FORMAT:
        raise StoreError(f"{store_path}: this is a store of the format {given.format!r}, not of {FORMAT!r}.")
    if given.version != FORMAT_VERSION:
        raise StoreError(
            f"{store_path}: the labels are of format version {given.version}, this program reads version "
            f"{FORMAT_VERSION}. Make them again, or read them with the version of s4m that made them."
        )
    try:
        return msgspec.json.decode(group.attributes, type=StoreAttributes)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{store_path / ZARR_METADATA}: the attributes are damaged: {error}.") from error
