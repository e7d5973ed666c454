"""What a sealed store says of itself, in the attributes of its Zarr group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from pipeline.coco.model import CocoCategory
from pipeline.errors import StoreError
from pipeline.labels.schema import COLUMNS, DECISIONS, FORMAT, FORMAT_VERSION, STATUSES, TABLES, column_rows

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
    """The attributes of the store at a path; StoreError where there is none that this program can read.

    They are those that were sealed, but for the provenance, which nothing can be held against.
    """
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
        attributes = msgspec.json.decode(group.attributes, type=StoreAttributes)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error
    contradiction = _contradiction(attributes)
    if contradiction:
        raise _damaged(path, contradiction)
    return attributes


def _contradiction(attributes: StoreAttributes) -> str:
    """What in the attributes does not fit the rest of them; empty where all does."""
    if attributes.rows.keys() != set(TABLES):
        return "rows does not have the tables of the format"
    if attributes.column_digests.keys() != COLUMNS.keys():
        return "column_digests does not have the columns of the format"
    if content_digest(attributes.column_digests, attributes.rows, attributes.categories) != attributes.digest:
        return "they do not match their digest"
    for name, counts, kinds, total in (
        ("statuses", attributes.statuses, STATUSES, attributes.images),
        ("decisions", attributes.decisions, DECISIONS, attributes.instances),
    ):
        if counts.keys() != set(map(str, kinds)) or sum(counts.values()) != total:
            return f"{name} does not add up to {total}"
    return ""


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path}: the attributes are damaged: {reason}. "
        "Restore the store from a copy, or remove its result and make it again."
    )
