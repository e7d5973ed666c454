"""Checkpoints of a running training: written whole or not at all, tensors and numbers only, the last few kept.

A checkpoint is a zip archive, as torch.save writes it, followed by the digest of the whole file. The archive has a
checksum of every part, but none of its directory: torch takes a tensor from elsewhere without a word after one changed
byte there.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import torch
import xxhash

from pipeline.errors import StageError
from pipeline.files.writing import open_atomically
from pipeline.sam.build import DAMAGE

KEPT: Final = 2
_DIGEST_BYTES: Final = 32
_BLOCK_BYTES: Final = 1 << 22


def save_checkpoint(folder: Path, iteration: int, state: Mapping[str, Any]) -> Path:
    """Write the state after an iteration and remove all but the last few checkpoints."""
    path = folder / f"iteration-{iteration:08d}.pt"
    with open_atomically(path) as file:
        archive = _Digesting(file)
        torch.save({"iteration": iteration, **state}, cast(BinaryIO, archive))  # it needs no more of a file
        file.write(archive.digest.hexdigest().encode())
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
            _require_digest(file)
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


class _Digesting:
    """A file that is written, with the digest of what was written so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = xxhash.xxh3_128()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _require_digest(file: BinaryIO) -> None:
    """Raise ValueError if a file does not end in the digest of what is before it."""
    left = max(file.seek(0, os.SEEK_END) - _DIGEST_BYTES, 0)
    file.seek(0)
    digest = xxhash.xxh3_128()
    while left and (block := file.read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        left -= len(block)
    if digest.hexdigest().encode() != file.read():
        raise ValueError("another digest")


def _iteration_of(path: Path) -> int:
    return int(path.stem.removeprefix("iteration-"))
