"""What a kind of table is declared by, and what a sealed table says of itself in the attributes of its Zarr group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from pipeline.tables.columns import Column


class TableAttributes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attributes of every table; a format's own ones are fields of a subclass.

    digest: of the content, the same whatever the shards and chunks were; provenance is no part of it.
    sizes: sides of rows that this table has set for itself.
    rows: the length of every table that the columns make up.
    column_digests: xxh3-128 of every column's values, so that damage can be told by column.
    provenance: what made the table, as its maker said.
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
    """A column of codes, and the attribute that tells how many rows have each. kinds: what the codes stand for."""

    attribute: str
    column: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class TableFormat(Generic[A]):
    """The declaration of a kind of table. Whatever changes in its columns raises its version.

    content: what a table holds, a plural, in messages.
    make_again: how to get a table of this version in place of an older one, a sentence.
    columns: in their order on disk; offsets come ahead of the columns of the table they point into.
    ids: the column of the unique ids of what shards divide.
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
        """The tables that the columns make up."""
        return tuple(dict.fromkeys(column.table for column in self.columns))

    @property
    def size_names(self) -> frozenset[str]:
        """The names of the sizes that every table sets for itself."""
        return frozenset(self.sizes) | {name for column in self.columns for name in column.sized_by}

    @cached_property
    def columns_in_shards(self) -> tuple[Column, ...]:
        """The columns that shard files hold: all but those that are written in place."""
        return tuple(column for column in self.columns if not column.in_place)

    @property
    def main_table(self) -> str:
        """The table of what shards divide."""
        return self.column(self.ids).table

    def column(self, name: str) -> Column:
        """Return the column of a name; KeyError where the format has none."""
        return self._column_by_name[name]

    @cached_property
    def _column_by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    def with_sizes(self, sizes: Mapping[str, int]) -> TableFormat[A]:
        """Return the format of the tables that have these sizes."""
        return replace(self, columns=tuple(column.with_sizes(sizes) for column in self.columns), sizes=dict(sizes))
