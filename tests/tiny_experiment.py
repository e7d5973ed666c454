"""A complete experiment on tiny COCO data, for tests that need one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.workflow.experiment import Experiment
from pipeline.workflow.loading import load_experiment
from tests.tiny_coco import tiny_coco

POOL = {"annotated": {"annotations": "annotations.json", "images": "images"}, "percent": 50}


def make_experiment_files(folder: Path, settings: Mapping[str, Any] | None = None, name: str = "tiny") -> Path:
    """Tiny images, their COCO file, a detector config and an experiment file; gives the latter.

    Paths in it are absolute, so that commands may run anywhere.
    """
    if not (folder / "images").exists():
        tiny_coco(folder, images=6)
    detector = folder / "detector.py"
    detector.write_text('default_scope = "mmdet"\nmodel = dict(type="MaskRCNN")\n')
    content: dict[str, Any] = {"data": POOL, "teacher": {"detector": "detector.py"}} | dict(settings or {})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(_absolute(content, folder)))
    return path


def tiny_experiment(folder: Path, *overrides: str) -> Experiment:
    """The experiment of `make_experiment_files`, loaded, its store below the folder."""
    path = make_experiment_files(folder)
    return load_experiment(path, [f"store={folder / 'stores'}", *overrides], {})


def environment(folder: Path) -> dict[str, str]:
    """The environment for commands: store and work folder below `folder`."""
    return {**os.environ, "S4M_STORE": str(folder / "stores"), "S4M_WORK": str(folder / "work")}


def _absolute(content: Any, folder: Path) -> Any:
    if isinstance(content, dict):
        return {key: _absolute(value, folder) for key, value in content.items()}
    if isinstance(content, str) and (folder / content).exists():
        return str(folder / content)
    return content
