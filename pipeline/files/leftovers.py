"""Temporary files and folders of writers: their names, and removing those that killed writers left."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
from pathlib import Path
from typing import Final

from pipeline.files.locks import lives

_WRITING: Final = ".s4m-writing-"
_FILE: Final = re.compile(rf"\..+{re.escape(_WRITING)}(?P<host>.+)\.(?P<process>\d+)\.\d+", re.DOTALL)
_ZARR: Final = re.compile(r".+\.[0-9a-f]{32}\.partial", re.DOTALL)
"""Names that Zarr gives to files that it writes."""


def scratch_prefix(name: str) -> str:
    """Return how the names of temporary files and folders for a file begin."""
    return f".{name}{_WRITING}"


def temporary_file(path: Path) -> Path:
    """Return where this thread writes a file before it gets its name."""
    return path.with_name(f"{scratch_prefix(path.name)}{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}")


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that it holds, if it exists. Raise OSError if anything stays: it would be sealed."""
    if folder.exists():
        shutil.rmtree(folder)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove all temporary files and folders below a folder in which nobody writes now; return them."""
    return _remove(folder, everything=True, deep=True)


def remove_leftovers_of_ended(folder: Path, *, deep: bool = False) -> list[Path]:
    """Remove the temporary files in a folder whose writers, of this machine, have ended; return them."""
    return _remove(folder, everything=False, deep=deep)


def _remove(folder: Path, *, everything: bool, deep: bool) -> list[Path]:
    removed: list[Path] = []
    for parent, folders, names in os.walk(folder):
        for name in names:
            match = _FILE.fullmatch(name)
            if (everything and (match or _ZARR.fullmatch(name))) or (match and _has_ended(match)):
                (Path(parent) / name).unlink(missing_ok=True)
                removed.append(Path(parent) / name)
        if everything:
            for name in [name for name in folders if _WRITING in name and name.startswith(".")]:
                shutil.rmtree(Path(parent) / name)
                folders.remove(name)
                removed.append(Path(parent) / name)
        if not deep:
            break
    return removed


def _has_ended(match: re.Match[str]) -> bool:
    return match["host"] == socket.gethostname() and not lives(int(match["process"]))
