"""Checkpoints of a running training: whole or absent, the last few kept, nothing in them but tensors and numbers."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.errors import StageError
from pipeline.files.writing import open_atomically

KEPT: Final = 2
_PATTERN: Final = "iteration-*.pt"


def save_checkpoint(folder: Path, iteration: int, state: Mapping[str, Any]) -> Path:
    """Write the state after so many iterations and remove all but the last few."""
    path = folder / f"iteration-{iteration:08d}.pt"
    with open_atomically(path) as file:
        torch.save({"iteration": iteration, **state}, file)
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a training, the newest last."""
    return sorted(folder.glob(_PATTERN))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint; StageError where it is damaged or holds more than tensors and numbers."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise StageError(
            f"{path}: damaged, or not a checkpoint of this program ({reason}): delete it to go on from the one before"
        ) from error
    return state
