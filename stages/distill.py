"""`distill`: compute SAM's structural targets for the labelled images, in a store that experiments share."""

from __future__ import annotations

from pipeline.structure.distilling import distill_store, distill_work, summarise_targets
from pipeline.structure.target_store import StructureStore
from pipeline.workflow.result_files import TARGETS
from stages.context import StageContext, Summary


def run(context: StageContext) -> Summary:
    """Compute the missing targets and seal them."""
    sealed, experiment = context.folder / TARGETS, context.experiment
    images, sam, settings = context.labelled_images(), context.sam, experiment.distill
    work = distill_work(context.labelled(), images, sealed, sam, settings, context.execution)
    distill_store(work, sealed, context.provenance, context.execution)
    return summarise_targets(work, StructureStore.open(sealed), context.execution)
