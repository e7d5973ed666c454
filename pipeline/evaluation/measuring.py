"""Measures an experiment's models on its validation images, and its pseudo-labels against a known truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution
from pipeline.detection.predicting import ImagesToLabel, MeasuredDetector, label_images
from pipeline.detection.published import read_published
from pipeline.evaluation.models import MeasuredModel, measure_model
from pipeline.evaluation.pseudo_labels import LabelNodes, measure_pseudo_labels
from pipeline.evaluation.results import Evaluation, ModelResult, PseudoLabelResult
from pipeline.evaluation.settings import EvaluateSettings
from pipeline.labels.coco_export import export_results
from pipeline.labels.filling import NewStore
from pipeline.labels.label_store import LabelStore


@dataclass(frozen=True)
class ModelToMeasure:
    """A model, the folder that it is published in, and the label store that its detections are written to."""

    model: MeasuredModel
    detector: Path
    detections: Path


@dataclass(frozen=True)
class LabelsToMeasure:
    """The label stores of one round: the teacher's labels and the refined ones."""

    nodes: LabelNodes
    predicted: Path
    refined: Path


def measure_models(
    models: Iterable[ModelToMeasure],
    validation: tuple[Path, Path],
    folder: Path,
    settings: EvaluateSettings,
    provenance: Mapping[str, Any],
    execution: Execution,
) -> list[ModelResult]:
    """Measure models on validation images, and write each one's detections as COCO results into a folder.

    validation: COCO file and image folder. An interrupted run goes on at its first missing shard.
    """
    annotations, image_root = validation
    dataset = read_coco(annotations)
    results: list[ModelResult] = []
    for each in models:
        store = _detections(each, dataset, image_root, settings, provenance, execution)
        execution.say(f"evaluate: measuring {each.model.node} on {len(dataset.images):,} images")
        export_results(store, folder / each.model.detections_file)
        results.append(measure_model(each.model, store, dataset, settings))
    return results


def _detections(
    each: ModelToMeasure,
    dataset: CocoDataset,
    image_root: Path,
    settings: EvaluateSettings,
    provenance: Mapping[str, Any],
    execution: Execution,
) -> LabelStore:
    """Make the store of a model's detections at any score."""
    node = each.model.node
    categories = read_published(each.detector).card.categories
    label_images(
        f"evaluate {node}",
        ImagesToLabel(dataset.path, image_root, [image.id for image in dataset.images]),
        MeasuredDetector(each.detector, settings.max_detections),
        NewStore(each.detections, categories, {**provenance, "model": node}),
        execution,
    )
    return LabelStore.open(each.detections)


def measure_labels(
    rounds: Iterable[LabelsToMeasure], truth: Path, settings: EvaluateSettings, execution: Execution
) -> list[PseudoLabelResult]:
    """Measure the pseudo-labels of every round. truth: COCO file of what the unlabelled images show."""
    dataset = read_coco(truth)
    results: list[PseudoLabelResult] = []
    for each in rounds:
        execution.say(f"evaluate: measuring the labels of {each.nodes.predict} and {each.nodes.refine}")
        predicted, refined = LabelStore.open(each.predicted), LabelStore.open(each.refined)
        results.append(measure_pseudo_labels(each.nodes, predicted, refined, dataset, boundary=settings.boundary))
    return results


def main_figures(evaluation: Evaluation) -> dict[str, float]:
    """Return the mask AP of every model and the mask IoU of every round's labels, where they were measured."""
    figures: dict[str, float | None] = {}
    for model in evaluation.models:
        of_round = "" if model.round == 1 else f"-{model.round}"
        figures[f"{model.role}{of_round} AP"] = model.mask.ap
    for labels in evaluation.pseudo_labels:
        figures[f"{labels.predict_node} mask IoU"] = labels.before.paired.mean_iou
        figures[f"{labels.refine_node} mask IoU"] = labels.after.paired.mean_iou
    return {name: round(value, 3) for name, value in figures.items() if value is not None}
