"""Reads the attributes of a sealed table; refuses damaged ones and those of another format or version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from pipeline.errors import StoreError
from pipeline.files.reading import read_file
from pipeline.tables.columns import column_rows
from pipeline.tables.table_format import A, TableAttributes, TableFormat

ZARR_METADATA = "zarr.json"


class StatedFormat(msgspec.Struct, frozen=True):
    """The name and version of the format that a table says it has."""

    format: str
    version: int


class _GroupMetadata(msgspec.Struct):
    attributes: msgspec.Raw


def content_digest(
    table_format: TableFormat[Any], column_digests: Mapping[str, str], rows: Mapping[str, int], facts: Iterable[Any]
) -> str:
    """Return the digest of a table's whole content."""
    lines = [f"{table_format.name} {table_format.version}"]
    for column in table_format.columns:
        shape = (column_rows(column, rows), *column.row_shape)
        lines.append(f"{column.name} {column.dtype} {shape} {column_digests[column.name]}")
    lines += [msgspec.json.encode(fact).decode() for fact in facts]
    return xxhash.xxh3_128_hexdigest("\n".join(lines).encode())


def read_stated_format(path: Path) -> StatedFormat:
    """Return the format that a table says it has; raise StoreError if there is no table."""
    return _raw_attributes(path, "tables")[1]


def read_attributes(path: Path, table_format: TableFormat[A]) -> A:
    """Return the attributes of the table at a path; raise StoreError if this program cannot read it.

    Everything but the provenance, which no digest covers, is checked to be as it was sealed.
    """
    metadata, content = path / ZARR_METADATA, table_format.content
    raw, stated = _raw_attributes(path, content)
    if stated.format != table_format.name:
        raise StoreError(f"{path}: this is a store of the format {stated.format!r}, not of {table_format.name!r}.")
    of_version = table_format.of_version(stated.version)
    if of_version is None:
        raise StoreError(
            f"{path}: the {content} are of format version {stated.version}, this program reads "
            f"{_versions(table_format)}. {table_format.make_again}"
        )
    try:
        attributes = msgspec.json.decode(raw, type=of_version.attributes)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(metadata, str(error)) from error
    contradiction = _contradiction(of_version, attributes)
    if contradiction:
        raise _damaged(metadata, contradiction)
    return attributes


def format_of(table_format: TableFormat[A], attributes: TableAttributes) -> TableFormat[A]:
    """Return the declaration, of the right version and with sizes, of a table whose attributes were read."""
    of_version = table_format.of_version(attributes.version)
    assert of_version is not None  # reading refuses other versions
    return of_version.with_sizes(attributes.sizes)


def _versions(table_format: TableFormat[Any]) -> str:
    versions = sorted(each.version for each in (table_format, *table_format.earlier))
    *others, last = map(str, versions)
    return f"versions {', '.join(others)} and {last}" if others else f"version {last}"


def _raw_attributes(path: Path, content: str) -> tuple[msgspec.Raw, StatedFormat]:
    metadata = path / ZARR_METADATA
    try:
        raw = msgspec.json.decode(read_file(metadata), type=_GroupMetadata).attributes
        return raw, msgspec.json.decode(raw, type=StatedFormat)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"{path}: there are no {content}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{metadata}: these are no {content}, or they are damaged ({error}).") from error


def _contradiction(table_format: TableFormat[A], attributes: TableAttributes) -> str:
    """Return why the attributes contradict each other; empty if they do not."""
    if attributes.sizes.keys() != table_format.size_names:
        return "sizes does not have the sizes of the format"
    if attributes.rows.keys() != set(table_format.tables):
        return "rows does not have the tables of the format"
    if attributes.column_digests.keys() != {column.name for column in table_format.columns}:
        return "column_digests does not have the columns of the format"
    facts = [getattr(attributes, name) for name in table_format.facts]
    sized = table_format.with_sizes(attributes.sizes)
    if content_digest(sized, attributes.column_digests, attributes.rows, facts) != attributes.digest:
        return "they do not match their digest"
    for counted in table_format.counts:
        counts = getattr(attributes, counted.attribute)
        total = attributes.rows[table_format.column(counted.column).table]
        if counts.keys() != set(counted.kinds) or sum(counts.values()) != total:
            return f"{counted.attribute} does not add up to {total}"
    return ""


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path}: the attributes are damaged: {reason}. "
        "Restore the store from a copy, or remove its result and make it again."
    )
