"""Write files that exist whole or not at all, also after a power failure."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import StageError
from pipeline.files.leftovers import temporary_file

_NO_HARD_LINKS = frozenset((errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP))


class _Noting(io.FileIO):
    """A file that notes why it could not be written: torch.save raises another error after it, without the reason."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write bytes; note the error of the system if that fails."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


@contextmanager
def open_atomically(path: Path, *, keep_existing: bool = False) -> Iterator[BinaryIO]:
    """Yield a file to write bytes to, which gets its name only when it is on disk in full; make its folder if missing.

    keep_existing: of two writers of the same file the first wins, not the last.
    """
    make_folder(path.parent)
    aside = temporary_file(path)
    try:
        raw = _Noting(aside, "wb")
        try:
            with io.BufferedWriter(raw) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except Exception as error:
            if raw.failure is not None and error is not raw.failure:
                raise raw.failure from error
            raise
        if keep_existing:
            _name_unless_taken(aside, path)
        else:
            aside.replace(path)
    except OSError as error:
        if error.filename is None:  # the system names no file where writing fails
            error.filename = str(path)
        raise
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
        aside.replace(path)  # some shared folders have no hard links: the last wins


def refuse_existing(paths: Sequence[Path]) -> None:
    """Raise StageError where one of the files to write exists."""
    if existing := [path for path in paths if path.exists()]:
        remedy = "is already there and was left alone: delete it or choose another output"
        raise StageError("\n".join(f"{path} {remedy}" for path in existing))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with open_atomically(path) as file:
        file.write(text.encode())


def make_folder(folder: Path) -> None:
    """Make a folder and those that it lies in, unless they exist, so that they survive a power failure."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make sure that all files below a folder survive a power failure."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent) / name for name in names):
            if not path.is_symlink():  # what it leads to was not written here
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(Path(parent))
