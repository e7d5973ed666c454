"""Makes the store of structural targets, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.reading import read_images
from pipeline.compute.execution import Execution, ShardProgress
from pipeline.compute.shards import ShardReport
from pipeline.labels.filling import ShardedStore, fill_store, shards_beside
from pipeline.labels.rows import Status
from pipeline.sam.settings import SamSettings
from pipeline.sam.worker import SamChoice
from pipeline.structure.distill_work import DistillWork
from pipeline.structure.measuring import measure_targets
from pipeline.structure.separation import EMBEDDING_AREA, TARGETS_AREA
from pipeline.structure.settings import DistillSettings
from pipeline.structure.target_columns import ANCHORS_PER_SHARD, TARGET_FORMAT
from pipeline.structure.target_store import StructureStore
from pipeline.structure.target_writing import seal_targets
from pipeline.tables.shard_files import divide


def distill_store(work: DistillWork, store_path: Path, provenance: Mapping[str, Any], execution: Execution) -> None:
    """Make the store of the targets of all images of a COCO file; shards of an interrupted run are used again."""
    images = read_images(work.annotations)
    fill_store(
        "distill",
        work,
        divide([image.id for image in images], max(1, ANCHORS_PER_SHARD // work.settings.anchors)),
        ShardedStore(
            store_path,
            TARGET_FORMAT,
            lambda plan: seal_targets(work.shards_folder, plan, store_path, provenance),
        ),
        execution,
    )


def distill_work(
    annotations: Path,
    image_root: Path,
    store_path: Path,
    sam: SamSettings,
    settings: DistillSettings,
    execution: Execution,
) -> DistillWork:
    """Return the work whose shards become the store at a path; paths are made absolute for other processes."""
    file_names = [image.file_name for image in read_images(annotations)]
    return DistillWork(
        annotations=annotations.absolute(),
        images=ImageFolder.of(image_root, file_names),
        shards_folder=shards_beside(store_path),
        sam=SamChoice.of(sam, execution.settled, len(file_names)),
        settings=settings,
    )


def summarise_targets(work: DistillWork, store: StructureStore, execution: Execution) -> dict[str, int | float]:
    """Return the number of images and anchors, of images that failed, and how well targets tell instances apart."""

    def measured_images(done: int, images: int) -> None:
        report = ShardReport(1, {}, {}) if done else None
        execution.progress(ShardProgress("distill, measuring the targets", images, done, 0, report))

    failed = store.attributes.statuses[Status.FAILED]
    counts = {"images": len(store), "anchors": store.attributes.anchors}
    targets, embedding = measure_targets(work, store, measured_images)
    measured = {TARGETS_AREA: targets, EMBEDDING_AREA: embedding}
    areas = {name: round(each.area_under_curve, 3) for name, each in measured.items() if each is not None}
    return counts | ({str(Status.FAILED): failed} if failed else {}) | areas
