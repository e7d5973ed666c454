"""`train-teacher`: the detector that is trained on the labelled images alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.coco.reading import read_coco
from pipeline.datasets.held_out import held_out_ids
from pipeline.detection.config import read_detector
from pipeline.detection.jobs import Losses, Source, Start, Subject, Training, training_job
from pipeline.detection.packing import sample_pipeline
from pipeline.workflow.experiment import Experiment
from stages.context import TARGETS, StageContext, Summary
from stages.training import run_training


def run(context: StageContext) -> Summary:
    """Train the teacher, or go on with it, and publish it."""
    experiment = context.experiment
    teacher = experiment.teacher
    detector = read_detector(teacher.detector, teacher.overrides)
    labelled = read_coco(context.labelled())
    ids = [image.id for image in labelled.images]
    held_out = held_out_ids(ids, teacher.held_out)
    if held_out:
        context.say(f"{len(held_out)} of {len(ids)} labelled images are held out, for the gate to be calibrated on")
    structure = context.results.get("distill")
    source = Source(
        {
            "type": "s4m.LabelledImages",
            "annotations": str(context.labelled().absolute()),
            "image_root": str(context.labelled_images().absolute()),
            "structure": None if structure is None else str((structure / TARGETS).absolute()),
            "image_ids": [image_id for image_id in ids if image_id not in held_out],
            "pipeline": sample_pipeline(
                detector.train_transforms(teacher.crop_px),
                photometric=None,
                anchors=0 if structure is None else teacher.distillation_anchors,
            ),
        },
        amount=1.0,
    )
    subject = Subject(
        experiment=experiment.name,
        node=context.node.key,
        categories=tuple(sorted(labelled.categories, key=lambda category: category.id)),
        made_from=dict(context.fingerprint),
        validation=validation(context),
    )
    training = Training(
        detector=detector,
        settings=teacher,
        losses=Losses(structural_weight=teacher.distillation_weight),
        sources=(source,),
        start=initial_weights(experiment),
    )
    return run_training(context, training_job(subject, training, experiment.compute, context.folder.absolute()))


def initial_weights(experiment: Experiment) -> Start | None:
    """What a detector from scratch starts from, where it is not what its config says."""
    weights = experiment.teacher.init_weights
    return None if weights is None else Start(weights.absolute(), whole=False)


def validation(context: StageContext) -> tuple[Path, Path] | None:
    """COCO file and image folder of the validation images, if there are any."""
    annotations, images = context.validation(), context.validation_images()
    return None if annotations is None or images is None else (annotations.absolute(), images.absolute())
