"""`adapt`: SAM fitted to the labelled images, in a folder that experiments share."""

from __future__ import annotations

from pipeline.adaptation.adapting import AdaptTask, adapt_sam
from pipeline.adaptation.card import report_lines
from stages.context import StageContext, Summary


def run(context: StageContext) -> Summary:
    """Fit SAM, unless an interrupted run has, and say what was tried and chosen."""
    experiment = context.experiment
    task = AdaptTask(
        context.labelled(),
        context.labelled_images(),
        experiment.sam,
        experiment.refine,
        experiment.adapt,
        experiment.held_out_for_gate,
    )
    adaptation = adapt_sam(task, context.folder, context.execution)
    for line in report_lines(adaptation):
        context.say(f"adapt: {line}")
    return adaptation.summary
