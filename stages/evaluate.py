"""`evaluate`: teacher and students on the validation images, pseudo-labels before and after refinement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipeline.coco.reading import read_coco
from pipeline.evaluation.measuring import (
    LabelsToMeasure,
    ModelToMeasure,
    main_figures,
    measure_labels,
    measure_models,
)
from pipeline.evaluation.models import MeasuredModel
from pipeline.evaluation.pseudo_labels import LabelNodes
from pipeline.evaluation.results import EVALUATION, FORMAT, FORMAT_VERSION, Evaluation, write_evaluation
from pipeline.workflow.graph import node_key
from pipeline.workflow.result_files import LABELS, PREDICTIONS
from stages.context import StageContext, Summary

NO_VALIDATION: Final = "Models were not measured: set data.validation to images with annotations."
NO_TRUTH: Final = "Pseudo-labels were not measured: nothing is known of what the unlabelled images show."


def run(context: StageContext) -> Summary:
    """Measure what can be measured, and say what cannot."""
    settings, execution = context.experiment.evaluate, context.execution
    validation, truth = context.validation(), context.unlabelled_truth()
    models = (
        measure_models(_models(context), validation, context.folder, settings, context.provenance, execution)
        if validation
        else []
    )
    labels = measure_labels(_labels(context), truth, settings, execution) if truth else []
    notes = [note for note, measured in ((NO_VALIDATION, validation), (NO_TRUTH, truth)) if measured is None]
    evaluation = Evaluation(
        format=FORMAT,
        version=FORMAT_VERSION,
        max_detections=settings.max_detections,
        categories=read_coco(context.labelled()).categories,
        models=tuple(models),
        pseudo_labels=tuple(labels),
        notes=tuple(notes),
    )
    for note in notes:
        context.say(note)
    write_evaluation(context.folder / EVALUATION, evaluation)
    return main_figures(evaluation)


def _models(context: StageContext) -> Iterator[ModelToMeasure]:
    """All models that this experiment trains, teacher first."""
    models = [MeasuredModel("train-teacher", "teacher", 1, "detections/train-teacher.json")]
    for number in _rounds(context):
        student = node_key("train-student", number)
        models.append(MeasuredModel(student, "student", number, f"detections/{student}.json"))
    for model in models:
        if model.node in context.results:
            detections = context.folder / PREDICTIONS / model.node / LABELS
            yield ModelToMeasure(model, context.results[model.node], detections)


def _labels(context: StageContext) -> Iterator[LabelsToMeasure]:
    """The pseudo-labels of every round."""
    for number in _rounds(context):
        nodes = LabelNodes(number, node_key("predict", number), node_key("refine", number))
        predicted, refined = (context.results[node] / LABELS for node in (nodes.predict, nodes.refine))
        yield LabelsToMeasure(nodes, predicted, refined)


def _rounds(context: StageContext) -> range:
    return range(1, context.experiment.student.rounds + 1)
