"""Makes stores of refined labels, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.coco.image_folder import ImageFolder
from pipeline.compute.execution import Execution
from pipeline.labels.filling import NewStore, fill_label_store, shards_beside
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import InstanceLabel
from pipeline.refinement.gate import Gate
from pipeline.refinement.refine_work import RefineWork
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.encoded import ENCODED_IMAGES
from pipeline.sam.worker import SamChoice
from pipeline.tables.shard_files import divide

IMAGES_PER_SHARD = 32


def refine_work(
    teacher_store: Path, image_root: Path, store_path: Path, sam: SamChoice, settings: RefineSettings, gate: Gate
) -> RefineWork:
    """Return the work whose shards become the store at a path; paths are made absolute for other processes."""
    images = ImageFolder.of(image_root, LabelStore.open(teacher_store).file_names())
    return RefineWork(teacher_store.absolute(), images, shards_beside(store_path), sam, settings, gate)


def refine_store(work: RefineWork, store_path: Path, provenance: Mapping[str, Any], execution: Execution) -> int:
    """Make the store of refined labels, unless it exists; return how often SAM's encoder ran.

    Shards of an interrupted run are used again.
    """
    teacher = LabelStore.open(work.teacher_store)
    plan = divide(teacher.image_ids.tolist(), IMAGES_PER_SHARD)
    store = NewStore(store_path, teacher.attributes.categories, provenance)
    return fill_label_store("refine", work, plan, store, execution)[ENCODED_IMAGES]


def keep_teacher_labels(teacher_store: Path, store_path: Path, provenance: Mapping[str, Any]) -> None:
    """Write the teacher's labels as they are, for self-training without SAM; an existing store stays."""
    if not store_path.exists():
        teacher = LabelStore.open(teacher_store)
        rows = (replace(row, instances=tuple(map(_unrefined, row.instances))) for row in teacher)
        write_label_store(store_path, rows, teacher.attributes.categories, provenance)


def _unrefined(label: InstanceLabel) -> InstanceLabel:
    """Return a teacher's label as training reads it: without a soft mask, of full weight since no gate judged it."""
    return replace(label, soft_mask=None, gate_confidence=1.0)
