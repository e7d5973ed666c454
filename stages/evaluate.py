"""`evaluate`: teacher and students on the validation images, pseudo-labels before and after refinement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipeline.coco.model import CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.detection.predict_work import IMAGES_PER_SHARD, DetectorChoice, PredictWork
from pipeline.detection.published import read_published
from pipeline.evaluation.models import MeasuredModel, measure_model
from pipeline.evaluation.pseudo_labels import LabelNodes, measure_pseudo_labels
from pipeline.evaluation.results import (
    EVALUATION,
    FORMAT,
    FORMAT_VERSION,
    Evaluation,
    ModelResult,
    PseudoLabelResult,
    write_evaluation,
)
from pipeline.labels.coco_export import export_results
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import seal_labels
from pipeline.tables.shard_files import divide
from pipeline.workflow.graph import node_key
from stages.context import LABELS, PREDICTIONS, StageContext, Summary
from stages.progress import fill_store, shards_beside

NO_VALIDATION: Final = "Models were not measured: set data.validation to images with annotations."
NO_TRUTH: Final = "Pseudo-labels were not measured: nothing is known of what the unlabelled images show."


def run(context: StageContext) -> Summary:
    """Measure what there is to measure, and say what there is not."""
    notes: list[str] = []
    models = _measure_models(context, notes)
    pseudo_labels = _measure_pseudo_labels(context, notes)
    evaluation = Evaluation(
        format=FORMAT,
        version=FORMAT_VERSION,
        max_detections=context.experiment.evaluate.max_detections,
        categories=read_coco(context.labelled()).categories,
        models=tuple(models),
        pseudo_labels=tuple(pseudo_labels),
        notes=tuple(notes),
    )
    for note in notes:
        context.say(note)
    write_evaluation(context.folder / EVALUATION, evaluation)
    return _summary(evaluation)


def _measure_models(context: StageContext, notes: list[str]) -> list[ModelResult]:
    """All models on the validation images, teacher first."""
    path, image_root = context.validation(), context.validation_images()
    if path is None or image_root is None:
        notes.append(NO_VALIDATION)
        return []
    dataset = read_coco(path)
    results: list[ModelResult] = []
    for model in _models(context):
        store = _detections(context, model.node, dataset, image_root)
        context.say(f"evaluate: measuring {model.node} on {len(dataset.images):,} images")
        export_results(store, context.folder / model.detections_file)
        results.append(measure_model(model, store, dataset, context.experiment.evaluate))
    return results


def _models(context: StageContext) -> Iterator[MeasuredModel]:
    teacher = "train-teacher"
    if teacher in context.results:
        yield MeasuredModel(teacher, "teacher", 1, f"detections/{teacher}.json")
    for number in _rounds(context):
        student = node_key("train-student", number)
        yield MeasuredModel(student, "student", number, f"detections/{student}.json")


def _detections(context: StageContext, node: str, dataset: CocoDataset, image_root: Path) -> LabelStore:
    """A model's detections at any score; what an interrupted run has done is not done again."""
    sealed = context.folder / PREDICTIONS / node / LABELS
    compute = context.experiment.compute
    work = PredictWork(
        annotations=dataset.path.absolute(),
        image_root=image_root.absolute(),
        shards_folder=shards_beside(sealed),
        detector=DetectorChoice.of(context.results[node], compute),
        score_threshold=0.0,
        max_instances=context.experiment.evaluate.max_detections,
        measured=True,
    )
    categories = read_published(context.results[node]).card.categories
    provenance = {"fingerprint": context.fingerprint, "model": node}
    fill_store(
        f"evaluate {node}",
        work,
        divide([image.id for image in dataset.images], IMAGES_PER_SHARD),
        sealed,
        compute,
        lambda plan: seal_labels(work.shards_folder, plan, sealed, categories, provenance),
    )
    return LabelStore.open(sealed)


def _measure_pseudo_labels(context: StageContext, notes: list[str]) -> list[PseudoLabelResult]:
    """The pseudo-labels of every round, where the truth was kept aside."""
    path = context.unlabelled_truth()
    if path is None:
        notes.append(NO_TRUTH)
        return []
    truth = read_coco(path)
    results: list[PseudoLabelResult] = []
    for number in _rounds(context):
        nodes = LabelNodes(number, node_key("predict", number), node_key("refine", number))
        context.say(f"evaluate: measuring the labels of {nodes.predict} and {nodes.refine}")
        predicted, refined = (LabelStore.open(context.results[node] / LABELS) for node in (nodes.predict, nodes.refine))
        boundary = context.experiment.evaluate.boundary
        results.append(measure_pseudo_labels(nodes, predicted, refined, truth, boundary=boundary))
    return results


def _rounds(context: StageContext) -> range:
    return range(1, context.experiment.student.rounds + 1)


def _summary(evaluation: Evaluation) -> Summary:
    """The mask AP of every model and the mask IoU of every round's labels, where there is one."""
    figures: dict[str, float | None] = {}
    for model in evaluation.models:
        figures[f"{node_key(model.role, model.round)} AP"] = model.mask.ap
    for labels in evaluation.pseudo_labels:
        figures[f"{labels.predict_node} mask IoU"] = labels.before.paired.mean_iou
        figures[f"{labels.refine_node} mask IoU"] = labels.after.paired.mean_iou
    return {name: round(value, 3) for name, value in figures.items() if value is not None}
