"""Checks the tables in results, column by column, against what was sealed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.embeddings.embedding_columns import EMBEDDING_FORMAT
from pipeline.errors import StoreError
from pipeline.labels.label_columns import LABEL_FORMAT
from pipeline.structure.target_columns import TARGET_FORMAT
from pipeline.tables.attributes import read_stated_format
from pipeline.tables.table_format import TableFormat
from pipeline.tables.verifying import verify

FORMATS: Final[Mapping[str, TableFormat[Any]]] = {
    table_format.name: table_format for table_format in (LABEL_FORMAT, TARGET_FORMAT, EMBEDDING_FORMAT)
}


def check_tables(folder: Path) -> tuple[list[str], list[str]]:
    """Read all tables of a result and compare their columns with their digests.

    Return a line for every difference, and one for every table of a format that this program does not read.
    """
    problems: list[str] = []
    unread: list[str] = []
    for path in sorted(folder.rglob("*.zarr")):
        try:
            stated = read_stated_format(path)
            table_format = FORMATS.get(stated.format)
            if table_format is None or table_format.of_version(stated.version) is None:
                unread.append(
                    f"{path}: columns not checked: this program does not read {stated.format} {stated.version}"
                )
            else:
                problems += verify(path, table_format)
        except StoreError as error:
            problems.append(str(error))
    return problems, unread
