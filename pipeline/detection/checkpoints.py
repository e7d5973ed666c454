"""Checkpoints of a running training: written whole or not at all, tensors and numbers only, the last few kept."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.errors import StageError
from pipeline.files.writing import open_atomically

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


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Raise StageError if it is damaged or holds more than tensors and numbers."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        # Not torch's message, which says how to run the code in a file.
        raise StageError(
            f"{path}: damaged, or not a checkpoint of this program ({type(error).__name__}): delete it to resume from "
            "the one before"
        ) from error
    return state
