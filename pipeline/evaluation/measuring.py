"""Measures the models of an experiment on validation images, and its pseudo-labels against a known truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution
from pipeline.detection.predicting import ImagesToLabel, Labeller, label_images
from pipeline.detection.published import read_published
from pipeline.detection.settings import PredictSettings
from pipeline.evaluation.cityscapes_measuring import CityscapesTruth, measure_cityscapes
from pipeline.evaluation.models import MeasuredModel, measure_model
from pipeline.evaluation.pseudo_labels import LabelsToMeasure, measure_pseudo_labels
from pipeline.evaluation.results import Evaluation, ModelResult, PseudoLabelResult
from pipeline.evaluation.settings import EvaluateSettings
from pipeline.labels.class_check import ClassCheck
from pipeline.labels.coco_export import export_results
from pipeline.labels.filling import NewStore
from pipeline.labels.label_store import LabelStore

TOO_FEW_ITERATIONS: Final = 100
LEARNT_AP: Final = 0.05
"""A shorter training with a lower AP has taught nothing: the models are not compared."""


def measure_models(
    models: Iterable[tuple[MeasuredModel, Path]],
    validation: tuple[Path, Path],
    folder: Path,
    settings: EvaluateSettings,
    provenance: Mapping[str, Any],
    execution: Execution,
) -> list[ModelResult]:
    """Measure models on validation images, and write the detections of each as COCO results into a folder.

    models: with the folder that each is published in. validation: COCO file and image folder. An interrupted run
    resumes at its first missing shard.
    """
    annotations, image_root = validation
    dataset = read_coco(annotations)
    cityscapes = None if settings.cityscapes is None else CityscapesTruth.of(dataset, settings.cityscapes)
    results: list[ModelResult] = []
    images = ImagesToLabel(dataset.path, image_root, [image.id for image in dataset.images])
    at_any_score = PredictSettings(score_threshold=0.0, max_instances=settings.max_detections)
    for model, detector in models:
        categories = read_published(detector).card.categories
        store = NewStore(model.store, categories, {**provenance, "model": model.node})
        label_images(
            f"evaluate {model.node}", images, Labeller(detector, at_any_score, measured=True), store, execution
        )
        execution.say(f"evaluate: measuring {model.node} on {len(dataset.images):,} images")
        export_results(LabelStore.open(model.store), folder / model.detections_file)
        result = measure_model(model, dataset, settings)
        if cityscapes is not None:
            measured = measure_cityscapes(LabelStore.open(model.store), dataset, cityscapes)
            result = msgspec.structs.replace(result, cityscapes=measured)
        results.append(result)
    return results


def measure_labels(
    rounds: Iterable[LabelsToMeasure],
    truth: Path,
    settings: EvaluateSettings,
    class_check: ClassCheck,
    execution: Execution,
) -> list[PseudoLabelResult]:
    """Measure the pseudo-labels of every round. truth: COCO file of the annotations of the unlabelled images.

    class_check: says which classes are doubted.
    """
    dataset = read_coco(truth)
    results: list[PseudoLabelResult] = []
    for each in rounds:
        execution.say(f"evaluate: measuring the labels of {each.predict_node} and {each.refine_node}")
        results.append(measure_pseudo_labels(each, dataset, boundary=settings.boundary, class_check=class_check))
    return results


def too_short(evaluation: Evaluation) -> str:
    """Return what to know of models whose training was too short to measure anything; empty for all others."""
    trained = {model.iterations for model in evaluation.models}
    if not trained or max(trained) >= TOO_FEW_ITERATIONS:
        return ""
    if any((model.mask.ap or 0.0) >= LEARNT_AP for model in evaluation.models):
        return ""
    shown = " and ".join(f"{iterations:,}" for iterations in sorted(trained))
    return (
        f"A training of {shown} iterations is too short for a detector to learn anything: the AP says nothing yet. "
        "Such a run shows that all stages work."
    )


def main_figures(evaluation: Evaluation) -> dict[str, float]:
    """Return the mask AP of every model, in points, and the mask IoU of the labels of every round, 0 to 1.

    Leave out what was not measured.
    """
    figures: dict[str, float] = {}
    for model in evaluation.models:
        of_round = "" if model.round == 1 else f"-{model.round}"
        cityscapes = None if model.cityscapes is None else model.cityscapes.ap
        for name, precision in (("AP", model.mask.ap), ("Cityscapes AP", cityscapes)):
            if precision is not None:
                figures[f"{model.role}{of_round} {name}"] = round(100 * precision, 1)
    for labels in evaluation.pseudo_labels:
        if labels.class_check is not None and labels.class_check.accuracy_corrected is not None:
            figures[f"{labels.refine_node} right class"] = round(labels.class_check.accuracy or 0.0, 3)
            figures[f"{labels.refine_node} right class, corrected"] = round(labels.class_check.accuracy_corrected, 3)
        for node, quality in ((labels.predict_node, labels.before), (labels.refine_node, labels.after)):
            if quality.paired.mean_iou is not None:
                figures[f"{node} mask IoU"] = round(quality.paired.mean_iou, 3)
    return figures
