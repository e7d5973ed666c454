"""Make temporary folders beside a result, and remove those that killed processes left."""

from __future__ import annotations

import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.files.leftovers import scratch_prefix
from pipeline.files.locks import lock_file
from pipeline.files.writing import refuse_existing, sync_folder, sync_tree

_LOCK = "lock"


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside a path; remove it at the end, with those that killed processes left for the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = scratch_prefix(path.name)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as name:
        folder = Path(name)
        nameless = folder / f"{_LOCK}.new"
        with nameless.open("wb") as file:
            lock_file(file)
            nameless.rename(folder / _LOCK)  # locked from the moment it can be found
            yield folder
    _remove_left_by_killed_processes(path.parent, prefix)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that gets its name when it is complete; raise StageError where the name is taken."""
    refuse_existing([path])
    with scratch_beside(path) as aside:
        inside = aside / path.name
        inside.mkdir()
        yield inside
        sync_tree(inside)
        inside.rename(path)
        sync_folder(path.parent)


def _remove_left_by_killed_processes(parent: Path, prefix: str) -> None:
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        try:
            with (left / _LOCK).open("r+b") as file:
                lock_file(file)
                shutil.rmtree(left, ignore_errors=True)
        except OSError:  # another process holds it, or it is not ours
            continue
