"""`distill`: SAM's structural targets for the labelled images, in a store that experiments share."""

from __future__ import annotations

import shutil
from typing import Final

from pipeline.coco.reading import read_coco
from pipeline.labels.rows import Status
from pipeline.labels.shards import completed_shards, divide
from pipeline.sam.worker import SamChoice
from pipeline.structure.job import DistillWork
from pipeline.structure.schema import images_per_shard
from pipeline.structure.sealing import seal
from pipeline.structure.store import StructureStore
from stages.context import StageContext, Summary
from stages.progress import run_missing

TARGETS: Final = "structure.zarr"
"""Name of the store in the stage's result."""


def run(context: StageContext) -> Summary:
    """Compute what is missing and seal it."""
    experiment = context.experiment
    sealed = context.folder / TARGETS
    shards_folder = context.folder / "shards"
    if not sealed.exists():
        settings = experiment.distill
        image_ids = [image.id for image in read_coco(context.labelled()).images]
        plan = divide(image_ids, images_per_shard(settings.anchors, len(image_ids)))
        work = DistillWork(
            annotations=context.labelled().absolute(),
            image_root=context.labelled_images().absolute(),
            shards_folder=shards_folder.absolute(),
            sam=SamChoice.of(experiment),
            settings=settings,
        )
        run_missing("distill", work, plan, completed_shards(shards_folder, plan), experiment.compute)
        seal(shards_folder, plan, sealed, settings.anchors, {"fingerprint": context.fingerprint})
    shutil.rmtree(shards_folder, ignore_errors=True)
    return _summary(StructureStore.open(sealed))


def _summary(store: StructureStore) -> Summary:
    failed = store.attributes.statuses[Status.FAILED]
    counts = {"images": len(store), "anchors": store.attributes.anchors}
    return counts | ({str(Status.FAILED): failed} if failed else {})
