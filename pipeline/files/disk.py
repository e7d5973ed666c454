"""Explain a full disk with figures, refuse beforehand what would not fit, and tell folders that may only be read."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import StageError

_OUT_OF_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))
_READ_ONLY = frozenset((errno.EROFS, errno.EACCES, errno.EPERM))


def is_full(error: OSError) -> bool:
    """Return whether an error of the system says that the disk, or the user's share of it, is full."""
    return error.errno in _OUT_OF_SPACE


def is_read_only(error: OSError) -> bool:
    """Return whether an error of the system says that nothing may be written there."""
    return error.errno in _READ_ONLY


@contextmanager
def explained_if_full(path: Path, size_bytes: int) -> Iterator[None]:
    """Turn the system's "no space left" into a StageError that says how much is needed and what to do."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StageError(
            f"{path}: the disk is full ({reason}): {size_bytes / 1e6:.1f} MB to write, "
            f"{_free_bytes(path) / 1e6:.1f} MB free. Make room and run the stage again: finished shards are kept."
        ) from error


def require_room(path: Path, size_bytes: int, what: str, remedy: str) -> None:
    """Raise StageError where the disk of a path has no room for what is to be written."""
    free_bytes = _free_bytes(path)
    if size_bytes > free_bytes:
        raise StageError(
            f"{path}: {what} take up to {size_bytes / 1e6:,.1f} MB, {free_bytes / 1e6:,.1f} MB are free. {remedy}"
        )


def _free_bytes(path: Path) -> int:
    path = path.absolute()
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free
