"""`refine`: the teacher's masks sharpened with SAM, in a label store that experiments share."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.coco.reading import read_coco
from pipeline.compute.settings import ComputeSettings
from pipeline.datasets.held_out import held_out_ids
from pipeline.detection.predict_work import IMAGES_PER_SHARD as PREDICTED_PER_SHARD
from pipeline.errors import StageError
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import seal_labels, write_label_store
from pipeline.labels.rows import InstanceLabel
from pipeline.labels.summary import count_labels
from pipeline.refinement.calibrate import CalibratedGate, calibrate
from pipeline.refinement.calibration_file import read_calibration, write_calibration
from pipeline.refinement.gate import Gate, fixed_gate, make_gate
from pipeline.refinement.refine_work import ENCODED, IMAGES_PER_SHARD, RefineWork
from pipeline.refinement.samples import samples_of_stores
from pipeline.sam.worker import SamChoice
from pipeline.tables.shard_files import divide
from pipeline.workflow.experiment import Experiment, RefineOnly
from pipeline.workflow.graph import node_key
from stages.context import LABELS, StageContext, Summary
from stages.embeddings import kept_embeddings
from stages.predict import predict_work
from stages.progress import fill_store, shards_beside

CALIBRATION = "calibration.json"
"""Name of the fitted gate in the stage's result, where `refine.gate` is calibrated."""


def run(context: StageContext) -> Summary:
    """Fit the gate where that is asked for, refine what is missing, and seal it."""
    if context.experiment.refine.gate == "teacher":
        return _pass_on(context)
    experiment = context.experiment
    fitted = _fitted_gate(context) if experiment.refine.gate == "calibrated" else None
    gate = make_gate(experiment.refine, None if fitted is None else fitted.gate)
    teacher = context.results[node_key("predict", context.node.round)] / LABELS
    sealed = context.folder / LABELS
    image_root = context.unlabelled_images()
    work = refine_work(experiment, teacher, image_root, sealed, gate)
    encoded = 0
    if experiment.compute.cache_embeddings and not sealed.exists():
        embeddings, encoded = kept_embeddings(context, teacher, image_root)
        work = replace(work, embeddings=embeddings.absolute())
    encoded += refine_store(work, sealed, experiment.compute, {"fingerprint": context.fingerprint})
    said = {} if fitted is None else {"gate": fitted.summary}
    return count_labels(LabelStore.open(sealed)) | {ENCODED: encoded} | said


def _pass_on(context: StageContext) -> Summary:
    """The teacher's labels as they are, for self-training without SAM."""
    sealed = context.folder / LABELS
    if not sealed.exists():
        teacher = LabelStore.open(context.results[node_key("predict", context.node.round)] / LABELS)
        rows = (replace(row, instances=tuple(map(_unrefined, row.instances))) for row in teacher)
        write_label_store(sealed, rows, teacher.attributes.categories, {"fingerprint": context.fingerprint})
    return count_labels(LabelStore.open(sealed))


def _unrefined(label: InstanceLabel) -> InstanceLabel:
    """A label of the teacher as training reads it: without its soft mask, and with full weight, as nobody judged it."""
    return replace(label, soft_mask=None, gate_confidence=1.0)


def refine_work(
    settings: Experiment | RefineOnly, teacher: Path, image_root: Path, sealed: Path, gate: Gate
) -> RefineWork:
    """The refinement of a store of labels into another, as the settings ask for it."""
    return RefineWork(
        teacher_store=teacher.absolute(),
        image_root=image_root.absolute(),
        shards_folder=shards_beside(sealed),
        sam=SamChoice.of(settings.sam, settings.compute),
        settings=settings.refine,
        gate=gate,
    )


def refine_store(work: RefineWork, sealed: Path, compute: ComputeSettings, provenance: Mapping[str, Any]) -> int:
    """Refine shard by shard, and seal; what an earlier run has done is not done again.

    Gives how often SAM's encoder ran.
    """
    teacher = LabelStore.open(work.teacher_store)
    counts = fill_store(
        "refine",
        work,
        divide(teacher.image_ids.tolist(), IMAGES_PER_SHARD),
        sealed,
        compute,
        lambda plan: seal_labels(work.shards_folder, plan, sealed, teacher.attributes.categories, provenance),
    )
    return counts[ENCODED]


def _fitted_gate(context: StageContext) -> CalibratedGate:
    """The gate, fitted on labelled images that the teacher did not train on; an interrupted run's is used again.

    On the images that it trained on, a teacher draws masks that it has learned by heart: a gate fitted there would
    trust it too much. It is the first teacher's labels in every round, for students train on all labelled images.
    """
    path = context.folder / CALIBRATION
    if not path.exists():
        scratch = context.folder / "calibration"
        teacher, refined = scratch / "teacher" / LABELS, scratch / "refined" / LABELS
        _predict_held_out(context, teacher)
        experiment = context.experiment
        # Without a gate, so that every mask of SAM's is seen.
        work = refine_work(experiment, teacher, context.labelled_images(), refined, Gate())
        refine_store(work, refined, experiment.compute, {})
        samples = samples_of_stores(LabelStore.open(teacher), LabelStore.open(refined), read_coco(context.labelled()))
        write_calibration(path, calibrate(samples, fixed_gate(experiment.refine)))
        shutil.rmtree(scratch)
    fitted = read_calibration(path)
    context.say(f"gate: {fitted.summary}")
    return fitted


def _predict_held_out(context: StageContext, sealed: Path) -> None:
    """The first teacher's labels of the labelled images that it did not train on."""
    experiment = context.experiment
    share = experiment.teacher.held_out
    labelled = read_coco(context.labelled())
    held_out = held_out_ids([image.id for image in labelled.images], share)
    if not held_out:
        raise StageError(
            f"refine.gate is calibrated, but teacher.held_out = {share:g} of {len(labelled.images)} labelled images "
            "is none: raise teacher.held_out, give more labelled images, or set refine.gate to fixed"
        )
    sealed.parent.mkdir(parents=True, exist_ok=True)
    teacher = context.results[node_key("train-teacher", 1)]
    work = predict_work(context, teacher, context.labelled(), context.labelled_images(), sealed)
    context.say(f"gate: to be fitted on {len(held_out)} labelled images that the teacher did not train on")
    fill_store(
        "calibrate",
        work,
        divide([image.id for image in labelled.images if image.id in held_out], PREDICTED_PER_SHARD),
        sealed,
        experiment.compute,
        lambda plan: seal_labels(work.shards_folder, plan, sealed, labelled.categories, {}),
    )
