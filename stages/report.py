"""`report`: one HTML page that shows what an experiment did and what came of it."""

from __future__ import annotations

from pipeline.ablation.writing import read_ablation
from pipeline.files.writing import write_atomically
from pipeline.report.extras import Sources, collect
from pipeline.report.gather import gather
from pipeline.report.page import render_page
from pipeline.workflow.graph import plan
from stages.context import LABELS, PREDICTIONS, TARGETS, StageContext, Summary

REPORT = "report.html"


def run(context: StageContext) -> Summary:
    """Write the page."""
    results = dict(context.results)
    if context.split_folder is not None:
        results["split"] = context.split_folder
    gathered = gather(context.experiment.name, plan(context.experiment), results)
    sources = Sources(
        image_root=context.unlabelled_images(),
        truth=context.unlabelled_truth(),
        store_name=LABELS,
        targets_name=TARGETS,
        predictions_name=PREDICTIONS,
    )
    extras = collect(gathered, sources, context.experiment.report.gallery)
    ablation = None if context.ablation is None else read_ablation(context.ablation)
    html = render_page(gathered, extras, ablation)
    write_atomically(context.folder / REPORT, html)
    pictures = sum(len(card.pictures) for gallery in extras.galleries for card in gallery.cards)
    return {"pictures": pictures, "page": REPORT}
