"""`distill`: SAM's structural targets for the labelled images, in a store that experiments share."""

from __future__ import annotations

from pipeline.coco.reading import read_coco
from pipeline.labels.rows import Status
from pipeline.sam.worker import SamChoice
from pipeline.structure.distill_work import DistillWork
from pipeline.structure.target_columns import target_images_per_shard
from pipeline.structure.target_store import StructureStore
from pipeline.structure.target_writing import seal_targets
from pipeline.tables.shard_files import divide
from stages.context import TARGETS, StageContext, Summary
from stages.progress import fill_store, shards_beside


def run(context: StageContext) -> Summary:
    """Compute what is missing and seal it."""
    experiment = context.experiment
    sealed = context.folder / TARGETS
    settings = experiment.distill
    image_ids = [image.id for image in read_coco(context.labelled()).images]
    work = DistillWork(
        annotations=context.labelled().absolute(),
        image_root=context.labelled_images().absolute(),
        shards_folder=shards_beside(sealed),
        sam=SamChoice.of(experiment.sam, experiment.compute),
        settings=settings,
    )
    provenance = {"fingerprint": context.fingerprint}
    fill_store(
        "distill",
        work,
        divide(image_ids, target_images_per_shard(settings.anchors, len(image_ids))),
        sealed,
        experiment.compute,
        lambda plan: seal_targets(work.shards_folder, plan, sealed, settings.anchors, provenance),
    )
    return _summary(StructureStore.open(sealed))


def _summary(store: StructureStore) -> Summary:
    failed = store.attributes.statuses[Status.FAILED]
    counts = {"images": len(store), "anchors": store.attributes.anchors}
    return counts | ({str(Status.FAILED): failed} if failed else {})
