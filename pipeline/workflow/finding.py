"""Finds experiments by path or name, label stores by path or as EXPERIMENT:NODE, and trained detectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pipeline.coco.foreign import foreign_hint
from pipeline.errors import StageError, StoreError
from pipeline.files.identity import Progress
from pipeline.files.shipped import EXPERIMENTS, config_path
from pipeline.workflow.graph import node_key
from pipeline.workflow.loading import load_experiment
from pipeline.workflow.result_files import LABELS
from pipeline.workflow.workspace import Workspace, make_command, work_root

ModelRole = Literal["teacher", "student"]
"""Which detector of an experiment: the teacher, or the last student."""

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


def detector_folder(
    text: str, role: ModelRole = "student", overrides: Sequence[str] = (), progress: Progress | None = None
) -> Path:
    """Return the folder of a trained detector, given by that folder or by the experiment that trained it.

    role, overrides, progress: of an experiment, as for `label_store_path`. Raise StageError if there is none.
    """
    from pipeline.detection.published import CARD  # NumPy, which light commands never need

    path = Path(text)
    if path.is_dir():
        if not (path / CARD).is_file():
            raise StageError(f"{path}: there is no trained detector in this folder ({CARD} is missing)")
        return path
    loaded = load_experiment(experiment_path(text), overrides)
    rounds = loaded.student.rounds
    if role == "student" and rounds == 0:
        raise StageError(f"{text} trains no student (student.rounds is 0): use its teacher, with --model teacher")
    space = Workspace(loaded, work_root(), progress=progress, trust_images=True)
    key = node_key("train-student", rounds) if role == "student" else "train-teacher"
    node = space.nodes[key]
    if node.skipped:
        raise StageError(f"{text} trains no {role}: {node.skipped}")
    if not space.is_made(key):
        how = make_command(node.stage, text, overrides)
        raise StageError(
            f"{text} has no {role} that is up to date with these settings: {how}. "
            "Or name the folder of a trained detector"
        )
    return space.result(key)


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
