"""`train-teacher`: the detector that is trained on the labelled images alone."""

from __future__ import annotations

from pipeline.workflow.trainings import teacher_training
from stages.context import StageContext, Summary
from stages.training import run_training


def run(context: StageContext) -> Summary:
    """Train the teacher, or continue its training, and publish it."""
    training = teacher_training(context.experiment, context.labelled(), context.results, context.say)
    return run_training(context, training)
