"""`train-student`: the detector that is trained on labelled and refined pseudo-labelled images."""

from __future__ import annotations

from typing import Any

from pipeline.coco.reading import read_coco
from pipeline.detection.config import Detector, read_detector
from pipeline.detection.jobs import Losses, Source, Start, Subject, Training, training_job
from pipeline.detection.packing import sample_pipeline
from pipeline.detection.published import WEIGHTS
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.graph import node_key
from stages.augment import composite_sources
from stages.context import LABELS, StageContext, Summary
from stages.train_teacher import initial_weights, validation
from stages.training import run_training


def run(context: StageContext) -> Summary:
    """Train the student, or go on with it, and publish it."""
    experiment = context.experiment
    student = experiment.student
    categories = tuple(sorted(read_coco(context.labelled()).categories, key=lambda category: category.id))
    subject = Subject(
        experiment=experiment.name,
        node=context.node.key,
        categories=categories,
        made_from=dict(context.fingerprint),
        validation=validation(context),
    )
    detector = _detector(experiment)
    training = Training(
        detector=detector,
        settings=student,
        losses=Losses(pseudo_weight=student.pseudo_weight, ema_momentum=student.ema_momentum),
        sources=_sources(context, detector),
        start=_start(context),
    )
    return run_training(context, training_job(subject, training, experiment.compute, context.folder.absolute()))


def _detector(experiment: Experiment) -> Detector:
    """The student's own detector, or the teacher's with the teacher's overrides below the student's."""
    teacher, student = experiment.teacher, experiment.student
    if student.detector is not None:
        return read_detector(student.detector, student.overrides)
    return read_detector(teacher.detector, teacher.overrides | student.overrides)


def _start(context: StageContext) -> Start | None:
    student, number = context.experiment.student, context.node.round
    if student.start == "scratch":
        return initial_weights(context.experiment)
    before = "train-teacher" if number == 1 else node_key("train-student", number - 1)
    return Start((context.results[before] / WEIGHTS).absolute(), whole=student.detector is None)


def _sources(context: StageContext, detector: Detector) -> tuple[Source, ...]:
    """Labelled images, unlabelled ones with their refined labels, and composites of these."""
    student = context.experiment.student
    geometry = detector.train_transforms(student.crop_px)
    strong = sample_pipeline(
        geometry, photometric={"jitter": student.jitter, "grey": student.grey, "blur": student.blur}
    )
    labelled = {
        "type": "s4m.LabelledImages",
        "annotations": str(context.labelled().absolute()),
        "image_root": str(context.labelled_images().absolute()),
        "pipeline": sample_pipeline(geometry, photometric=None),
    }
    pseudo = _stored(context, "refine", "pseudo") | {"pipeline": strong}
    sources = [Source(labelled, student.mixture.labelled), Source(pseudo, student.mixture.pseudo)]
    composites = _composites(context)
    if composites is not None and student.mixture.composites > 0:
        sources.append(Source(composites | {"pipeline": strong}, student.mixture.composites))
    return tuple(sources)


def _composites(context: StageContext) -> dict[str, Any] | None:
    """The dataset of composites: written before, or made while training; None where the experiment does without."""
    mode = context.experiment.augment.mode
    if mode == "materialised":
        augmented = context.results.get(node_key("augment", context.node.round))
        return None if augmented is None else _stored(context, "augment", "composite")
    if mode == "none":
        return None
    refined = context.results[node_key("refine", context.node.round)] / LABELS
    sources = composite_sources(context.experiment, refined, context.labelled(), context.folder)
    if reason := sources.nothing_to_paste():
        context.say(f"{context.node.key}: {reason}")
    student = context.experiment.student
    return {
        "type": "s4m.Composites",
        "refined_store": str(sources.refined.store_path),
        "image_root": str(sources.refined.image_root),
        "labelled_store": None if sources.labelled is None else str(sources.labelled.store_path),
        "labelled_root": None if sources.labelled is None else str(sources.labelled.image_root),
        "settings": context.experiment.augment.model_dump(mode="json"),
        "instance_weight": student.instance_weight,
        "ignore_dropped": student.ignore_dropped,
    }


def _stored(context: StageContext, stage: str, source: str) -> dict[str, Any]:
    """The dataset of a stage's label store; composites lie beside theirs, other images in the unlabelled folder."""
    student = context.experiment.student
    result = context.results[node_key(stage, context.node.round)].absolute()
    root = result if stage == "augment" else context.unlabelled_images().absolute()
    return {
        "type": "s4m.StoredLabels",
        "store": str(result / LABELS),
        "image_root": str(root),
        "source": source,
        "instance_weight": student.instance_weight,
        "ignore_dropped": student.ignore_dropped,
    }
