"""Finds experiments by path or name, and label stores by path or as EXPERIMENT:NODE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.coco.foreign import foreign_hint
from pipeline.errors import StoreError
from pipeline.files.identity import Progress
from pipeline.files.shipped import EXPERIMENTS, config_path
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from pipeline.workflow.workspace import Workspace, make_command, work_root

_WITH_LABELS: Final = ("predict", "refine", "augment")


def experiment_path(text: str) -> Path:
    """Return the file of an experiment, given by path or by name."""
    path = Path(text)
    # A folder of the same name, such as the one of the data, does not hide the experiment.
    if path.suffix in (".yaml", ".yml") or (path.exists() and not path.is_dir()):
        return config_path(path)
    return config_path(EXPERIMENTS / f"{text}.yaml")


def label_store_path(text: str, overrides: Sequence[str] = (), progress: Progress | None = None) -> Path:
    """Return the path of a label store, given by its path, by that of its result, or as EXPERIMENT:NODE.

    overrides: values set over the experiment's file. progress: called as its images are read. Raise StoreError if the
    experiment has no such labels under these settings.
    """
    path = Path(text)
    if path.is_file() and path.suffix == ".json":
        raise StoreError(f"{text}: a label store is needed; s4m labels import makes one of a COCO file")
    if not path.exists() and ":" in text:
        experiment, _, node = text.rpartition(":")
        path = _result_of(experiment, node, overrides, progress)
    elif not path.is_dir() and experiment_path(text).is_file():
        raise StoreError(f"{text}: an experiment has several label stores: {text}:predict, {text}:refine or another")
    inside = path / LABELS
    if inside.is_dir():
        return inside
    if path.is_dir() and (hint := foreign_hint(path)) is not None:
        raise StoreError(f"{path}: {hint}")
    return path


def _result_of(experiment: str, node: str, overrides: Sequence[str], progress: Progress | None) -> Path:
    """Return the result of a node under these settings, even if the experiment ran with others since."""
    loaded = load_experiment(experiment_path(experiment), overrides)
    space = Workspace(loaded, work_root(), progress=progress, trust_images=True)
    with_labels = [key for key, each in space.nodes.items() if each.stage in _WITH_LABELS]
    if node not in with_labels:
        raise StoreError(f"{experiment}:{node}: only these nodes have labels: {', '.join(with_labels)}")
    if not space.is_made(node):
        how = make_command(space.nodes[node].stage, experiment, overrides)
        raise StoreError(f"{experiment} has no labels of {node} that are up to date with these settings: {how}")
    return space.result(node)
