"""`refine`: the teacher's masks sharpened with SAM, in a label store that experiments share."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.experiment.schema import Experiment
from pipeline.graph import node_key
from pipeline.labels.sealing import seal
from pipeline.labels.shards import completed_shards, divide
from pipeline.labels.store import LabelStore
from pipeline.labels.summary import count_labels
from pipeline.refinement.gate import make_gate
from pipeline.refinement.job import IMAGES_PER_SHARD, RefineWork
from pipeline.sam.worker import SamChoice
from stages.context import LABELS, StageContext, Summary
from stages.progress import run_missing


def run(context: StageContext) -> Summary:
    """Refine what is missing and seal it."""
    teacher = context.results[node_key("predict", context.node.round)] / LABELS
    sealed = context.folder / LABELS
    refine_store(teacher, context.unlabelled_images(), sealed, context.experiment, {"fingerprint": context.fingerprint})
    return count_labels(LabelStore.open(sealed))


def refine_store(
    teacher_path: Path, image_root: Path, sealed: Path, experiment: Experiment, provenance: Mapping[str, Any]
) -> None:
    """Refine a store of labels into another, shard by shard; what an earlier run has done is not done again."""
    shards_folder = sealed.with_name("shards")
    if not sealed.exists():
        teacher = LabelStore.open(teacher_path)
        plan = divide(teacher.image_ids.tolist(), IMAGES_PER_SHARD)
        work = _work(teacher_path, image_root, shards_folder, experiment)
        run_missing("refine", work, plan, completed_shards(shards_folder, plan), experiment.compute)
        seal(shards_folder, plan, sealed, teacher.attributes.categories, provenance)
    shutil.rmtree(shards_folder, ignore_errors=True)


def _work(teacher_path: Path, image_root: Path, shards_folder: Path, experiment: Experiment) -> RefineWork:
    return RefineWork(
        teacher_store=teacher_path.absolute(),
        image_root=image_root.absolute(),
        shards_folder=shards_folder.absolute(),
        sam=SamChoice.of(experiment),
        settings=experiment.refine,
        gate=make_gate(experiment.refine),
    )
