"""The memory of digests: tables in an SQLite file, on whose content nothing depends but time.

A damaged file is begun anew. One that cannot be used, as another process keeps it locked, the disk is full or nothing
may be written there, is left alone: this process then remembers by itself what it reads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

Answer = TypeVar("Answer")

WAIT_SECONDS: Final = 20.0
"""Time that others may keep the file locked. A process that writes needs a moment; one that hangs would stop all."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sets (key TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS listings (digest TEXT PRIMARY KEY, names TEXT NOT NULL);
"""
_UNUSABLE: Final = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_PROTOCOL,
    )
)
"""Errors of the place where the file is; after others the file holds something else than these tables."""


class DigestMemory:
    """Tables of digests that are remembered in a file."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; its folder must exist."""
        self._path = path
        self._own: sqlite3.Connection | None = None
        self._ask(lambda connection: connection.executescript(_TABLES))

    def one(self, query: str, values: Sequence[str]) -> str | None:
        """Return the first value of the first row of an answer; None without rows."""
        rows = self.rows(query, values)
        return str(rows[0][0]) if rows else None

    def rows(self, query: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return all rows of an answer."""
        bound = _bound(values)
        return self._ask(lambda connection: connection.execute(query, bound).fetchall())

    def write(self, query: str, rows: Iterable[Sequence[str]]) -> None:
        """Write rows, all or none."""
        bound = list(map(_bound, rows))
        self._ask(lambda connection: connection.executemany(query, bound))

    def _ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        for _ in range(2):
            if self._own is not None:
                break
            try:
                with closing(sqlite3.connect(self._path, timeout=WAIT_SECONDS)) as connection, connection:
                    return question(connection)
            except sqlite3.DatabaseError as error:
                self._replace(is_damaged=error.sqlite_errorcode & 0xFF not in _UNUSABLE)
        assert self._own is not None  # a file is replaced once
        with self._own:
            return question(self._own)

    def _replace(self, *, is_damaged: bool) -> None:
        """Begin a new file in the place of a damaged one; where that fails, and for others, remember in this process.

        The journal of a damaged file goes first: it would be played back into the new one.
        """
        try:
            if is_damaged:
                for ending in ("-journal", "-wal", "-shm", ""):
                    self._path.with_name(f"{self._path.name}{ending}").unlink(missing_ok=True)
                with closing(sqlite3.connect(self._path, timeout=WAIT_SECONDS)) as connection, connection:
                    connection.executescript(_TABLES)
                return
        except (OSError, sqlite3.DatabaseError):
            pass
        self._own = sqlite3.connect(":memory:", check_same_thread=False)
        self._own.executescript(_TABLES)


def _bound(values: Iterable[str]) -> tuple[str | bytes, ...]:
    """Return texts as SQLite takes them: those with bytes that are not UTF-8 as bytes."""
    return tuple(each if _is_unicode(each) else each.encode("utf-8", "surrogatepass") for each in values)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
