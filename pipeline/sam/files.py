"""Find the weights of each SAM. Imports nothing slow, as every command does this."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeline.sam.tiny import WEIGHTS_FILE

PUBLISHED_FILES: Final[dict[str, str]] = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}


def weights_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of published checkpoints: S4M_WEIGHTS, else `weights/`."""
    return Path(environment.get("S4M_WEIGHTS", "weights")).expanduser()


def checkpoint_path(model: str, checkpoint: Path | None = None) -> Path:
    """Return the file of a model's weights, which may be missing."""
    if checkpoint is not None:
        return checkpoint
    return WEIGHTS_FILE if model == "sam_tiny" else weights_folder() / PUBLISHED_FILES[model]
