"""`report`: write an HTML page with the results of an experiment."""

from __future__ import annotations

from pipeline.ablation.writing import read_ablation
from pipeline.files.writing import write_atomically
from pipeline.report.extras import ReportImages, collect
from pipeline.report.gather import gather
from pipeline.report.page import render_page
from pipeline.workflow.graph import plan
from pipeline.workflow.result_files import REPORT
from stages.context import StageContext, Summary


def run(context: StageContext) -> Summary:
    """Write the page."""
    experiment, results = context.experiment, dict(context.results)
    if context.split_folder is not None:
        results["split"] = context.split_folder
    gathered = gather(experiment.name, plan(experiment), results)
    images = ReportImages(context.unlabelled_images(), context.unlabelled_truth(), context.validation())
    extras = collect(gathered, images, experiment.report.gallery)
    ablation = None if context.ablation is None else read_ablation(context.ablation)
    write_atomically(context.folder / REPORT, render_page(gathered, extras, ablation))
    shown = sum(len(card.images) for gallery in extras.galleries for card in gallery.cards)
    return {"images": shown, "page": REPORT}
