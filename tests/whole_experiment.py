"""A whole experiment of tiny size whose every stage runs in seconds, and what its results hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pipeline.files.identity import hash_file, hash_text
from tests.tiny_training import TEACHER, training_experiment

SETTINGS: Final = {
    "sam": {"input_side": 128},
    "distill": {"anchors": 16},
    "teacher": TEACHER | {"distillation_weight": 1.0, "distillation_anchors": 8, "iterations": 4},
    "student": {"iterations": 4, "batch_size": 1, "unlabelled_batch_size": 2},
    "augment": {"mode": "materialised", "decisions": ["sam", "teacher"], "min_area_px": 1.0},
}


def make_whole_experiment(folder: Path) -> Path:
    """Write the experiment; give its file."""
    training_experiment(folder, SETTINGS)
    return folder / "tiny.yaml"


def content_of(result: Path) -> dict[str, Any]:
    """Return what must be the same in every making of a result, by file: no times, and none of TensorBoard's files."""
    return {
        path.relative_to(result).as_posix(): _content(path)
        for path in sorted(result.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts and path.name not in ("seal.json", "files.json")
    }


def _content(path: Path) -> Any:
    if path.name == "log.jsonl":
        return [json.loads(line)["losses"] for line in path.read_text().splitlines()]
    if path.name == "weights.pth":
        import torch

        state = torch.load(path, weights_only=True)["state_dict"]
        return hash_text(repr([(name, tensor.tolist()) for name, tensor in state.items()]))
    return hash_file(path)
