"""Lock files between processes. The operating system removes a lock when its process ends, however it ends.

A lock is exclusive, for one holder, or shared, for any number of holders at a time. A forked child does not keep its
parent's locks: a child that outlives the parent would hold them for nobody.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, TextIO

from pipeline.files.disk import is_read_only

_held: Final[set[IO[Any]]] = set()
"""The locked files of this process, which its forked children close."""


def lock_file(file: IO[Any]) -> None:
    """Lock an open file until it is closed; BlockingIOError where another process holds its lock."""
    _flock(file, fcntl.LOCK_EX)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[TextIO]:
    """Hold the lock of a file, which is made if it is missing; BlockingIOError where another process holds it.

    Yields the open file: what the holder writes to it, others may read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file, _kept_from_children(file):
        lock_file(file)
        yield file


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Hold a shared lock of a file; BlockingIOError where another process holds the exclusive one.

    Where the file is missing and cannot be made, as in a folder that may only be read, nothing is locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        if not is_read_only(error):
            raise
    try:
        file = path.open(encoding="utf-8")
    except (FileNotFoundError, PermissionError):
        yield
        return
    with file, _kept_from_children(file):
        _flock(file, fcntl.LOCK_SH)
        yield


def is_locked(path: Path) -> bool:
    """Return whether a process holds the exclusive lock of a file now."""
    return _is_refused(path, fcntl.LOCK_SH)


def is_shared(path: Path) -> bool:
    """Return whether a process holds a lock of a file now, shared or exclusive."""
    return _is_refused(path, fcntl.LOCK_EX)


def processes_with(path: Path) -> tuple[int, ...]:
    """Return the processes of this machine that have a file open, as far as this process may see them."""
    try:
        wanted = path.stat()
    except OSError:
        return ()
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to somebody else
            if any(_is_same(entry, wanted) for entry in (process / "fd").iterdir()):
                found.append(int(process.name))
    return tuple(sorted(found))


def lives(process: int) -> bool:
    """Return whether a process of this machine is there and has not ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _is_same(path: Path, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), wanted)
    except OSError:  # closed meanwhile
        return False


def _flock(file: IO[Any], kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        error.filename = file.name  # the system names no file
        raise


def _opened(path: Path, kind: int) -> TextIO:
    """Open a lock file; for an exclusive lock NFS wants it open for writing."""
    if kind == fcntl.LOCK_EX:
        try:
            return path.open("r+", encoding="utf-8")
        except OSError as error:
            if not is_read_only(error):
                raise
    return path.open(encoding="utf-8")


def _is_refused(path: Path, kind: int) -> bool:
    try:
        with _opened(path, kind) as file:
            _flock(file, kind)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


@contextmanager
def _kept_from_children(file: IO[Any]) -> Iterator[None]:
    _held.add(file)
    try:
        yield
    finally:
        _held.discard(file)


def _close_in_child() -> None:
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
