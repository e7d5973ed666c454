"""`split`: write the lists of labelled, unlabelled and validation images."""

from __future__ import annotations

from pipeline.datasets.lists import UNREADABLE, write_lists
from stages.context import StageContext, Summary


def run(context: StageContext) -> Summary:
    """Write the lists into the result's folder."""
    counts = write_lists(context.experiment.data, context.folder)
    summary = {"labelled": counts.labelled, "unlabelled": counts.unlabelled}
    if counts.validation:
        summary["validation"] = counts.validation
    if any(counts.left_out):
        labelled, measured = counts.left_out
        context.say(
            f"left out of the unlabelled images, by content: {labelled:,} labelled and {measured:,} validation images"
        )
    labelled, unlabelled = counts.validation_too
    if labelled or unlabelled:
        context.say(
            f"{labelled:,} labelled and {unlabelled:,} unlabelled images are validation images too: "
            "figures measured on them are too good"
        )
    if counts.unreadable:
        context.say(f"{counts.unreadable} files cannot be read; {UNREADABLE} beside the lists gives the reasons")
        summary["unreadable"] = counts.unreadable
    return summary
