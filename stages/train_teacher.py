"""`train-teacher`: the detector that is trained on the labelled images alone."""

from __future__ import annotations

from pipeline.detection.feature_separation import measure_features
from pipeline.structure.separation import FEATURES_AREA
from pipeline.workflow.trainings import teacher_training
from stages.context import StageContext, Summary
from stages.training import run_training


def run(context: StageContext) -> Summary:
    """Train the teacher, or continue its training, and publish it."""
    experiment = context.experiment
    training = teacher_training(experiment, context.labelled(), context.results, context.say)
    summary = run_training(context, training)
    if experiment.compute.is_helper:
        return summary
    features = measure_features(
        context.folder, context.labelled(), context.labelled_images(), experiment.distill, experiment.compute
    )
    return summary if features is None else {**summary, FEATURES_AREA: round(features.area_under_curve, 3)}
