"""Folders for what is made on the way to a result, and never outlive it."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.files.locks import lock_file

_LOCK = "lock"


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside a path. At the end it goes, and what killed processes left for the same path too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.s4m-writing-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as name:
        folder = Path(name)
        nameless = folder / f"{_LOCK}.new"
        with nameless.open("wb") as file:
            lock_file(file)
            nameless.rename(folder / _LOCK)  # it is held from the moment it can be found
            yield folder
    _remove_left_by_killed_processes(path.parent, prefix)


def _remove_left_by_killed_processes(parent: Path, prefix: str) -> None:
    """Remove folders of the same prefix that have the lock's file, and nobody who holds it."""
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        try:
            with (left / _LOCK).open("r+b") as file:
                lock_file(file)
                shutil.rmtree(left, ignore_errors=True)
        except OSError:  # another process is writing there, or it is nothing of ours
            continue
