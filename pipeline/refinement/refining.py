"""Makes stores of refined labels, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.compute.execution import Execution
from pipeline.labels.filling import NewStore, fill_label_store, shards_beside
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import write_label_store
from pipeline.labels.rows import InstanceLabel
from pipeline.refinement.gate import Gate
from pipeline.refinement.refine_work import RefineWork
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.encoded import ENCODED_IMAGES
from pipeline.sam.settings import SamSettings
from pipeline.sam.worker import SamChoice
from pipeline.tables.shard_files import divide

IMAGES_PER_SHARD = 32


@dataclass(frozen=True)
class Refinement:
    """What is refined, and how.

    teacher_store: the labels to refine. image_root: the folder that their file names start from.
    embeddings: a sealed store of SAM's embeddings of the images, to be used instead of its encoder.
    """

    teacher_store: Path
    image_root: Path
    sam: SamSettings
    settings: RefineSettings
    embeddings: Path | None = None


def refine_store(
    refinement: Refinement, gate: Gate, store_path: Path, provenance: Mapping[str, Any], execution: Execution
) -> int:
    """Make the store of refined labels; shards of an interrupted run are used again.

    Returns how often SAM's encoder ran.
    """
    embeddings = refinement.embeddings
    work = RefineWork(
        teacher_store=refinement.teacher_store.absolute(),
        image_root=refinement.image_root.absolute(),
        shards_folder=shards_beside(store_path),
        sam=SamChoice.of(refinement.sam, execution.compute),
        settings=refinement.settings,
        gate=gate,
        embeddings=None if embeddings is None else embeddings.absolute(),
    )
    teacher = LabelStore.open(work.teacher_store)
    plan = divide(teacher.image_ids.tolist(), IMAGES_PER_SHARD)
    store = NewStore(store_path, teacher.attributes.categories, provenance)
    return fill_label_store("refine", work, plan, store, execution)[ENCODED_IMAGES]


def keep_teacher_labels(teacher_store: Path, store_path: Path, provenance: Mapping[str, Any]) -> None:
    """Write the teacher's labels as they are, for self-training without SAM; a store that exists stays."""
    if not store_path.exists():
        teacher = LabelStore.open(teacher_store)
        rows = (replace(row, instances=tuple(map(_unrefined, row.instances))) for row in teacher)
        write_label_store(store_path, rows, teacher.attributes.categories, provenance)


def _unrefined(label: InstanceLabel) -> InstanceLabel:
    """Return a teacher's label as training reads it: without a soft mask, of full weight since no gate judged it."""
    return replace(label, soft_mask=None, gate_confidence=1.0)
