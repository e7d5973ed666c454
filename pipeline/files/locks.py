"""Locks between processes. They are the operating system's: a lock goes with its process, however that ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO


def lock_file(file: IO[Any]) -> None:
    """Lock an open file until it is closed; BlockingIOError where another process holds its lock."""
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[TextIO]:
    """Hold the lock of a file, which is made if need be; BlockingIOError where another process holds it.

    Gives the open file: what the holder writes there, others may read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        lock_file(file)
        yield file


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file at this moment."""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
