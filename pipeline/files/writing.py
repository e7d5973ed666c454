"""Files that are there whole or not at all, also after a power failure."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import StageError

_NO_HARD_LINKS = frozenset((errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP))


@contextmanager
def open_atomically(path: Path, *, keep_existing: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write bytes to, that gets its name only after it is on disk in full; make its folder if need be.

    keep_existing: of two writers of the same file the first wins, and not the last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep_existing:
            _name_unless_taken(aside, path)
        else:
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def _name_unless_taken(aside: Path, path: Path) -> None:
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        aside.replace(path)  # some shared folders know no hard links: there the last wins


def refuse_existing(paths: Sequence[Path]) -> None:
    """StageError where one of the files to write is there already."""
    left_alone = "is already there and was left alone: delete it or choose another output"
    if existing := [path for path in paths if path.exists()]:
        raise StageError("\n".join(f"{path} {left_alone}" for path in existing))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with open_atomically(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make sure that everything below a folder survives a power failure."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))
