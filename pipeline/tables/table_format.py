"""The declaration of a kind of table, and the attributes of a sealed table in its Zarr group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.tables.columns import Column


class TableAttributes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attributes of every table; a subclass has those of its format.

    digest: of the content without the provenance, the same for all shards and chunks.
    sizes: the sides of rows that this table sets.
    rows: the length of every table of the columns.
    column_digests: xxh3-128 of every column's values, to find damaged columns.
    provenance: what made the table.
    """

    format: str
    version: int
    digest: str
    sizes: dict[str, int] = {}
    rows: dict[str, int]
    column_digests: dict[str, str]
    provenance: dict[str, Any]


A = TypeVar("A", bound=TableAttributes)


@dataclass(frozen=True)
class CountedColumn:
    """A column of codes, and the attribute with the number of rows of each code. kinds: the meanings of the codes."""

    attribute: str
    column: str
    kinds: tuple[str, ...]

    def of(self, codes: NDArray[Any]) -> dict[str, int]:
        """Return the number of rows of each kind."""
        return dict(zip(self.kinds, np.bincount(codes, minlength=len(self.kinds)).tolist(), strict=True))


@dataclass(frozen=True)
class TableFormat(Generic[A]):
    """The declaration of a kind of table. Raise the version for every change of the columns.

    content: the content of a table, a plural, for messages.
    make_again: how to replace a table of an older version, a sentence for messages.
    columns: in their order on disk; offsets before the columns of the table that they point into.
    ids: the column of the unique ids by which shards are divided.
    attributes: the struct of its attributes, with a field for each of `counts` and `facts`.
    facts: attributes that are part of the content.
    sizes: the sizes of this table, set by `with_sizes`; empty in the declaration.
    earlier: declarations of earlier versions that are still read; only this version is written.
    """

    name: str
    version: int
    content: str
    make_again: str
    columns: tuple[Column, ...]
    ids: str
    attributes: type[A]
    counts: tuple[CountedColumn, ...] = ()
    facts: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    earlier: tuple[TableFormat[A], ...] = ()

    def of_version(self, version: int) -> TableFormat[A] | None:
        """Return the declaration of a version; None where tables of that version are not read."""
        return next((each for each in (self, *self.earlier) if each.version == version), None)

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Return the tables of the columns."""
        return tuple(dict.fromkeys(column.table for column in self.columns))

    @property
    def size_names(self) -> frozenset[str]:
        """Return the names of the sizes that every table sets."""
        return frozenset(self.sizes) | {name for column in self.columns for name in column.sized_by}

    @cached_property
    def columns_in_shards(self) -> tuple[Column, ...]:
        """Return the columns in shard files: all except those written in place."""
        return tuple(column for column in self.columns if not column.in_place)

    @property
    def main_table(self) -> str:
        """Return the table that shards divide."""
        return self.column(self.ids).table

    def column(self, name: str) -> Column:
        """Return the column of a name."""
        return self._column_by_name[name]

    @cached_property
    def _column_by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    def with_sizes(self, sizes: Mapping[str, int]) -> TableFormat[A]:
        """Return the format of tables with these sizes."""
        return replace(self, columns=tuple(column.with_sizes(sizes) for column in self.columns), sizes=dict(sizes))
