"""`train-student`: the detector that is trained on labelled images and refined pseudo-labels."""

from __future__ import annotations

from pipeline.workflow.trainings import student_training
from stages.context import StageContext, Summary
from stages.training import run_training, scratch_folder


def run(context: StageContext) -> Summary:
    """Train the student, or continue its training, and publish it."""
    with scratch_folder(context) as scratch:
        training = student_training(
            context.experiment, context.node.round, context.labelled(), context.results, scratch, context.say
        )
        return run_training(context, training)
