"""`train-student`: the detector that is trained on labelled and refined pseudo-labelled images."""

from __future__ import annotations

from pipeline.workflow.trainings import student_training
from stages.context import StageContext, Summary
from stages.training import run_training, training_inputs


def run(context: StageContext) -> Summary:
    """Train the student, or go on with it, and publish it."""
    inputs = training_inputs(context)
    return run_training(context, student_training(context.experiment, context.node.round, inputs, context.say))
