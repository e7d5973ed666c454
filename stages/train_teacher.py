"""`train-teacher`: the detector that is trained on the labelled images alone."""

from __future__ import annotations

from pipeline.workflow.trainings import teacher_training
from stages.context import StageContext, Summary
from stages.training import run_training, training_inputs


def run(context: StageContext) -> Summary:
    """Train the teacher, or go on with it, and publish it."""
    return run_training(context, teacher_training(context.experiment, training_inputs(context), context.say))
