"""Reads the results of an experiment: its stages with their completion records, figures and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.adaptation.card import Adaptation, read_adaptation
from pipeline.detection.training_log import LOG, TrainingLog, read_log
from pipeline.evaluation.results import EVALUATION, Evaluation, ModelResult, PseudoLabelResult, read_evaluation
from pipeline.workflow.graph import Node
from pipeline.workflow.result_store import StoreRoot
from pipeline.workflow.seals import Seal


@dataclass(frozen=True)
class StageResult:
    """One node of the graph; folder and seal are None if it was left out or has not run."""

    node: Node
    folder: Path | None
    seal: Seal | None


@dataclass(frozen=True)
class Run:
    """The results of one experiment. logs: by the key of the node that trained."""

    name: str
    stages: tuple[StageResult, ...]
    evaluation: Evaluation | None
    logs: Mapping[str, TrainingLog]
    adaptation: Adaptation | None = None

    @cached_property
    def by_key(self) -> Mapping[str, StageResult]:
        """Return the stages by the keys of their nodes."""
        return {each.node.key: each for each in self.stages}

    @property
    def seconds(self) -> float:
        """Return the time that all results took to make, whoever made them."""
        return sum(each.seal.seconds for each in self.stages if each.seal is not None)

    @property
    def teacher(self) -> ModelResult | None:
        """Return the measured teacher."""
        return next((each for each in self.models if each.role == "teacher"), None)

    @property
    def student(self) -> ModelResult | None:
        """Return the last measured student."""
        students = [each for each in self.models if each.role == "student"]
        return max(students, key=lambda each: each.round) if students else None

    @property
    def pseudo_labels(self) -> PseudoLabelResult | None:
        """Return the measured labels of the last round, on which the last student was trained."""
        rounds = self.evaluation.pseudo_labels if self.evaluation else ()
        return max(rounds, key=lambda each: each.round) if rounds else None

    def count(self, key: str, name: str) -> int | None:
        """Return a whole number from the summary of a node's result."""
        result = self.by_key.get(key)
        value = result.seal.summary.get(name) if result and result.seal else None
        return value if isinstance(value, int) else None

    @property
    def models(self) -> tuple[ModelResult, ...]:
        """Return all measured models."""
        return self.evaluation.models if self.evaluation else ()


def gather(name: str, nodes: Mapping[str, Node], results: Mapping[str, Path]) -> Run:
    """Read the results of an experiment. results: sealed folders by node."""
    stages = tuple(
        StageResult(node, results.get(key), _seal(results.get(key)))
        for key, node in nodes.items()
        if node.stage != "report"
    )
    logs = {
        each.node.key: log
        for each in stages
        if each.folder is not None and (log := read_log(each.folder / LOG)) is not None
    }
    measured = results.get("evaluate")
    evaluation = None if measured is None else read_evaluation(measured / EVALUATION)
    adapted = results.get("adapt")
    adaptation = None if adapted is None else read_adaptation(adapted)
    return Run(name, stages, evaluation, logs, adaptation)


def _seal(folder: Path | None) -> Seal | None:
    if folder is None:
        return None
    return StoreRoot(folder.parent.parent).seal_of(folder.parent.name, folder.name)
