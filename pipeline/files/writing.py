"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import StageError


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write bytes to, that gets its name only after it is on disk in full; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def refuse_existing(paths: Sequence[Path]) -> None:
    """StageError where one of the files to write is there already."""
    left_alone = "is already there and was left alone: delete it or choose another output"
    if existing := [path for path in paths if path.exists()]:
        raise StageError("\n".join(f"{path} {left_alone}" for path in existing))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with open_atomically(path) as file:
        file.write(text.encode())
