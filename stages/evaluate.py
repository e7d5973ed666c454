"""`evaluate`: teacher and students on the validation images, pseudo-labels before and after refinement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pipeline.coco.reading import read_coco
from pipeline.detection.published import read_published
from pipeline.evaluation.measuring import main_figures, measure_labels, measure_models, too_short
from pipeline.evaluation.models import MeasuredModel
from pipeline.evaluation.pseudo_labels import LabelsToMeasure
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
    doubt = context.experiment.student.doubt
    labels = measure_labels(_labels(context), truth, settings, doubt, execution) if truth else []
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
    write_evaluation(context.folder / EVALUATION, evaluation)
    for note in (*notes, too_short(evaluation)):
        if note:
            context.say(note)
    return main_figures(evaluation)


def _models(context: StageContext) -> Iterator[tuple[MeasuredModel, Path]]:
    """Yield the models that this experiment trained, teacher first, with their folders."""
    for number in (0, *_rounds(context)):
        node = node_key("train-student", number) if number else "train-teacher"
        if node in context.results:
            store = context.folder / PREDICTIONS / node / LABELS
            role: Literal["teacher", "student"] = "student" if number else "teacher"
            folder = context.results[node]
            iterations = read_published(folder).card.iterations
            yield MeasuredModel(node, role, max(number, 1), f"detections/{node}.json", store, iterations), folder


def _labels(context: StageContext) -> Iterator[LabelsToMeasure]:
    """Yield the pseudo-labels of every round."""
    for number in _rounds(context):
        predict, refine = node_key("predict", number), node_key("refine", number)
        yield LabelsToMeasure(
            number, predict, refine, context.results[predict] / LABELS, context.results[refine] / LABELS
        )


def _rounds(context: StageContext) -> range:
    return range(1, context.experiment.student.rounds + 1)
