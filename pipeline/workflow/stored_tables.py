"""The tables in results: which formats there are, and whether what was sealed is still there, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class CheckedTables:
    """What was found in the tables of a result.

    problems: a line for everything that is not as it was sealed.
    unread: a line for every table that this program does not know how to read; that is no damage.
    """

    problems: tuple[str, ...]
    unread: tuple[str, ...]


def check_tables(folder: Path) -> CheckedTables:
    """Read all tables of a result again and compare their columns with what was sealed."""
    problems: list[str] = []
    unread: list[str] = []
    for path in sorted(folder.rglob("*.zarr")):
        try:
            stated = read_stated_format(path)
            table_format = FORMATS.get(stated.format)
            if table_format is None or table_format.of_version(stated.version) is None:
                unread.append(f"{path}: columns not checked: {stated.format} {stated.version} is not read any more")
            else:
                problems += verify(path, table_format)
        except StoreError as error:
            problems.append(str(error))
    return CheckedTables(tuple(problems), tuple(unread))
