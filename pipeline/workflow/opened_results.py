"""The results of an experiment, opened in Python: label stores, detectors, figures, the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from pipeline.detection.loaded_detector import LoadedDetector
from pipeline.errors import StageError
from pipeline.evaluation.measuring import main_figures
from pipeline.evaluation.results import EVALUATION, Evaluation, read_evaluation
from pipeline.labels.label_store import LabelStore
from pipeline.presentation import words
from pipeline.presentation.notebook import table_html
from pipeline.workflow.finding import ModelRole
from pipeline.workflow.graph import node_key
from pipeline.workflow.result_files import LABELS
from pipeline.workflow.workspace import NodeStatus, Workspace


@dataclass(frozen=True)
class Report:
    """The page of an experiment. A notebook shows it in a frame."""

    path: Path

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 45rem; border: 1px solid #888"></iframe>'


class Results:
    """The results of an experiment that are up to date with its settings.

    A node is a stage, in rounds after the first with a number: `refine`, `refine-2`. Each method raises StageError,
    with the command that makes it, if the result is not there.
    """

    def __init__(self, space: Workspace) -> None:
        self._space = space

    def __repr__(self) -> str:
        return f"Results({self.name})"

    @property
    def name(self) -> str:
        """Return the name of the experiment."""
        return self._space.experiment.name

    def status(self) -> dict[str, NodeStatus]:
        """Return the state of every node."""
        return {key: self._space.status(key) for key in self._space.nodes}

    def folder(self, node: str) -> Path:
        """Return the folder of a node's result."""
        if node not in self._space.nodes:
            raise StageError(f"{node}: there is no such node; there are: {', '.join(self._space.nodes)}")
        if not self._space.is_made(node):
            skipped = self._space.nodes[node].skipped
            raise StageError(f"{node}: {skipped or f'not up to date: {self._space.command(node)}'}")
        return self._space.result(node)

    def labels(self, node: str = "refine") -> LabelStore:
        """Return the labels that a node made: `predict`, `refine`, or the composites' of `augment`."""
        path = self.folder(node) / LABELS
        if not path.is_dir():
            raise StageError(f"{node}: its result holds no labels")
        return LabelStore.open(path)

    def detector(self, role: ModelRole = "student") -> LoadedDetector:
        """Load the teacher or the last student."""
        return LoadedDetector(self.folder(self.detector_node(role)))

    def detector_node(self, role: ModelRole) -> str:
        """Return the node that trains the teacher or the last student."""
        rounds = self._space.experiment.student.rounds
        if role == "student" and not rounds:
            raise StageError("student.rounds is 0: the experiment trains a teacher alone")
        return node_key("train-student", rounds) if role == "student" else "train-teacher"

    def evaluation(self) -> Evaluation:
        """Return all figures of models and pseudo-labels."""
        return read_evaluation(self.folder("evaluate") / EVALUATION)

    def figures(self) -> dict[str, float]:
        """Return the main figures: mask AP of every model in points, mean IoU of the labels of every round, 0 to 1."""
        return main_figures(self.evaluation())

    def report(self) -> Report:
        """Return the page."""
        self.folder("report")
        return Report(self._space.where("report"))

    def _repr_html_(self) -> str:
        rows = [_row(status) for status in self.status().values()]
        return table_html(f"{self.name}: results", ("stage", "state", "figures"), rows)


def _row(status: NodeStatus) -> tuple[str, str, str]:
    summary: Mapping[str, object] = status.seal.summary if status.seal is not None else {}
    about = words.figures(summary, status.node.stage) if summary else "; ".join(status.reasons)
    return status.node.key, status.state.value, about
