"""What there is to report of an experiment: its stages with their completion records, figures and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from pipeline.detection.training_log import LOG, TrainingLog, read_log
from pipeline.evaluation.results import EVALUATION, Evaluation, ModelResult, PseudoLabelResult, read_evaluation
from pipeline.workflow.graph import STAGES, Node
from pipeline.workflow.result_store import Seal, StoreRoot

_LEFT_OUT: Final = ("report",)


@dataclass(frozen=True)
class StageResult:
    """One node of the graph; folder and seal are None where it was left out or has not run."""

    node: Node
    folder: Path | None
    seal: Seal | None

    @property
    def purpose(self) -> str:
        """What the stage is for, as a phrase."""
        return STAGES[self.node.stage].purpose


@dataclass(frozen=True)
class Run:
    """One experiment as it went. logs: by the node that trained."""

    name: str
    stages: tuple[StageResult, ...]
    evaluation: Evaluation | None
    logs: Mapping[str, TrainingLog]

    @cached_property
    def by_key(self) -> Mapping[str, StageResult]:
        """The stages by the keys of their nodes."""
        return {each.node.key: each for each in self.stages}

    @property
    def seconds(self) -> float:
        """What all results took to make, whoever made them."""
        return sum(each.seal.seconds for each in self.stages if each.seal is not None)

    @property
    def teacher(self) -> ModelResult | None:
        """The teacher as measured."""
        return next((each for each in self._models if each.role == "teacher"), None)

    @property
    def student(self) -> ModelResult | None:
        """The last student as measured."""
        students = [each for each in self._models if each.role == "student"]
        return max(students, key=lambda each: each.round) if students else None

    @property
    def pseudo_labels(self) -> PseudoLabelResult | None:
        """The last round's labels as measured: the last student learned from them."""
        rounds = self.evaluation.pseudo_labels if self.evaluation else ()
        return max(rounds, key=lambda each: each.round) if rounds else None

    def count(self, key: str, name: str) -> int | None:
        """A whole number out of the summary of a node's result."""
        result = self.by_key.get(key)
        value = result.seal.summary.get(name) if result and result.seal else None
        return value if isinstance(value, int) else None

    @property
    def _models(self) -> tuple[ModelResult, ...]:
        return self.evaluation.models if self.evaluation else ()


def gather(name: str, nodes: Mapping[str, Node], results: Mapping[str, Path]) -> Run:
    """Read what the results of an experiment say of themselves. `results`: sealed folders by node."""
    stages = tuple(
        StageResult(node, results.get(key), _seal(results.get(key)))
        for key, node in nodes.items()
        if node.stage not in _LEFT_OUT
    )
    logs = {
        each.node.key: log
        for each in stages
        if each.folder is not None and (log := read_log(each.folder / LOG)) is not None
    }
    measured = results.get("evaluate")
    evaluation = None if measured is None else read_evaluation(measured / EVALUATION)
    return Run(name, stages, evaluation, logs)


def _seal(folder: Path | None) -> Seal | None:
    if folder is None:
        return None
    return StoreRoot(folder.parent.parent).seal_of(folder.parent.name, folder.name)
