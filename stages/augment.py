"""`augment`: write composites of unlabelled images with their refined labels: images and a label store."""

from __future__ import annotations

from pipeline.augment.making import LABELLED_STORE, augment_store, composite_sources
from pipeline.augment.sources import LabelledFolder
from pipeline.files.leftovers import remove_folder
from pipeline.labels.label_store import LabelStore
from pipeline.workflow.graph import node_key
from pipeline.workflow.result_files import LABELS
from stages.context import StageContext, Summary


def run(context: StageContext) -> Summary:
    """Make the missing composites and seal their labels."""
    refined = context.results[node_key("refine", context.node.round)] / LABELS
    folder, sealed = context.folder, context.folder / LABELS
    sources = composite_sources(
        LabelledFolder.of(refined, context.unlabelled_images()),
        context.labelled(),
        context.labelled_images(),
        context.experiment.augment,
        folder,
        context.experiment.student.doubt,
    )
    if reason := sources.nothing_to_paste():
        context.say(f"{context.node.key}: {reason}")
    augment_store(sources, folder, sealed, context.provenance, context.execution)
    remove_folder(folder / LABELLED_STORE)
    return LabelStore.open(sealed).counts()
