"""Verifies a table: reads all of it and compares it with the digests in its attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.tables.attributes import format_of, read_attributes
from pipeline.tables.column_reader import ColumnReader
from pipeline.tables.columns import column_rows
from pipeline.tables.table_format import TableAttributes, TableFormat


def verify(path: Path, table_format: TableFormat[Any]) -> list[str]:
    """Return a line for every difference of a table from its sealed state.

    Raise StoreError if its attributes, which have the digests, are damaged or missing.
    """
    attributes: TableAttributes = read_attributes(path, table_format)
    sized = format_of(table_format, attributes)
    readers = {
        column.name: ColumnReader(path, column, column_rows(column, attributes.rows)) for column in sized.columns
    }
    problems: list[str] = []
    for name, reader in readers.items():
        try:
            if reader.digest() != attributes.column_digests[name]:
                problems.append(f"{path}: column {name} does not hold the values that were sealed.")
        except StoreError as error:
            problems.append(str(error))
    return problems or [
        f"{path}: the attribute {counted.attribute} does not hold the counts of the column {counted.column}."
        for counted in sized.counts
        if _counted(readers[counted.column], counted.kinds) != getattr(attributes, counted.attribute)
    ]


def _counted(reader: ColumnReader, kinds: tuple[str, ...]) -> dict[str, int]:
    """Return the number of rows of each code in a column; no digest covers these counts in the attributes."""
    totals = sum((np.bincount(values, minlength=len(kinds)) for values in reader.chunks()), np.zeros(len(kinds), int))
    return dict(zip(kinds, totals.tolist(), strict=True))
