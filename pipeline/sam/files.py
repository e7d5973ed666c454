"""Name the weight file of each SAM. Imports nothing slow, as every command does this."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.sam.tiny import WEIGHTS_FILE


@dataclass(frozen=True)
class PublishedFile:
    """A checkpoint as segment_anything's authors publish it."""

    name: str
    bytes: int
    sha256: str


PUBLISHED: Final = {
    "vit_b": PublishedFile(
        "sam_vit_b_01ec64.pth", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "vit_l": PublishedFile(
        "sam_vit_l_0b3195.pth", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "vit_h": PublishedFile(
        "sam_vit_h_4b8939.pth", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
}


def weights_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of published checkpoints: S4M_WEIGHTS, else `weights/`."""
    return Path(environment.get("S4M_WEIGHTS", "weights")).expanduser()


def checkpoint_path(model: str, checkpoint: Path | None = None) -> Path:
    """Return the file of a model's weights, which may be missing."""
    if checkpoint is not None:
        return checkpoint
    return WEIGHTS_FILE if model == "sam_tiny" else weights_folder() / PUBLISHED[model].name
