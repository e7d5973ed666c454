"""`distill`: SAM's structural targets for the labelled images, in a store that experiments share."""

from __future__ import annotations

from pipeline.structure.distilling import count_targets, distill_store, distill_work
from pipeline.structure.target_store import StructureStore
from pipeline.workflow.result_files import TARGETS
from stages.context import StageContext, Summary


def run(context: StageContext) -> Summary:
    """Compute the targets that are missing and seal them."""
    sealed, experiment = context.folder / TARGETS, context.experiment
    work = distill_work(
        context.labelled(),
        context.labelled_images(),
        sealed,
        experiment.sam,
        experiment.distill,
        context.execution,
    )
    distill_store(work, sealed, context.provenance, context.execution)
    return count_targets(StructureStore.open(sealed))
