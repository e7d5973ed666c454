"""Checkpoints of a running training: written whole or not at all, tensors and numbers only, the last few kept.

A checkpoint is a zip archive, as torch.save writes it, with a checksum of every part. torch does not compare these when
it loads a file, so they are compared here first.
"""

from __future__ import annotations

import errno
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch

from pipeline.errors import StageError
from pipeline.files.writing import open_atomically
from pipeline.sam.build import DAMAGE

KEPT: Final = 2


def save_checkpoint(folder: Path, iteration: int, state: Mapping[str, Any]) -> Path:
    """Write the state after an iteration and remove all but the last few checkpoints."""
    path = folder / f"iteration-{iteration:08d}.pt"
    with open_atomically(path) as file:
        torch.save({"iteration": iteration, **state}, file)
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return all checkpoints of a training, the newest last."""
    return sorted(folder.glob("iteration-*.pt"))


def newest_sound(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint that is whole, and its state; None without one.

    Damaged ones are removed, with a message for each.
    """
    found = checkpoints(folder)
    while found:
        path = found.pop()
        try:
            return path, load_checkpoint(path)
        except StageError as error:
            instead = "the training starts again" if not found else f"the one before it is used, {found[-1].name}"
            say(f"{error}. It is removed, and {instead}.")
            path.unlink()
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Raise StageError if it is damaged or holds more than tensors and numbers."""
    try:
        # The file is open here: torch then raises no errors of its own for one that cannot be read.
        with path.open("rb") as file:
            _require_checksums(file)
            file.seek(0)
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        if state["iteration"] != _iteration_of(path):
            raise ValueError(state["iteration"])
    except OSError:  # the disk fails
        raise
    except (*DAMAGE, zlib.error, NotImplementedError) as error:
        # Not torch's message, which says how to run the code in a file.
        raise StageError(f"{path}: damaged, or not a checkpoint of this program ({type(error).__name__})") from None
    return state


def _require_checksums(file: BinaryIO) -> None:
    """Raise BadZipFile if a part of an archive is not what was written."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise  # the disk fails
        raise zipfile.BadZipFile("a damaged entry says that a part begins before the file does") from error
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)


def _iteration_of(path: Path) -> int:
    return int(path.stem.removeprefix("iteration-"))
