"""What teacher and student train with: an experiment's settings and results as MMDetection datasets and weights.

labelled: COCO file of the labelled images. results: folders of the results of earlier nodes, by node. say: called with
messages for the user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.augment.making import composite_sources
from pipeline.augment.sources import LabelledFolder
from pipeline.coco.reading import read_coco
from pipeline.datasets.held_out import held_out_ids
from pipeline.detection.config import Detector, read_detector
from pipeline.detection.finetuning import FineTuning
from pipeline.detection.jobs import Source, StepBatch, Training
from pipeline.detection.packing import sample_pipeline
from pipeline.detection.published import WEIGHTS
from pipeline.detection.settings import StudentSettings, TrainSettings
from pipeline.detection.training import Start
from pipeline.errors import StageError, some_of
from pipeline.files.shipped import shipped_configs
from pipeline.workflow.experiment import Experiment
from pipeline.workflow.graph import labelling_model, node_key
from pipeline.workflow.inputs import config_files
from pipeline.workflow.result_files import LABELS, TARGETS
from pipeline.workflow.seals import SEAL


def teacher_training(
    experiment: Experiment, labelled: Path, results: Mapping[str, Path], say: Callable[[str], None]
) -> Training:
    """Return the training of the teacher: on the labelled images that are not held out."""
    teacher = experiment.teacher
    detector = _detector("train-teacher", experiment.store, teacher.detector, teacher.overrides, say)
    ids = [image.id for image in read_coco(labelled).images]
    held_out = held_out_ids(ids, teacher.held_out)
    if held_out:
        say(f"train-teacher: {len(held_out)} of {len(ids)} labelled images are held out to calibrate the gate")
    structure = results.get("distill")
    anchors = 0 if structure is None else teacher.distillation_anchors
    dataset = _labelled(experiment, labelled, teacher, detector, anchors) | {
        "structure": None if structure is None else str((structure / TARGETS).absolute()),
        "image_ids": [image_id for image_id in ids if image_id not in held_out],
    }
    return Training(
        detector=detector,
        settings=teacher,
        batches=(StepBatch("teacher.batch_size", teacher.batch_size, (Source(dataset, amount=1.0),)),),
        start=_initial_weights(experiment),
        structural_weight=teacher.distillation_weight,
    )


def student_training(
    experiment: Experiment,
    number: int,
    labelled: Path,
    results: Mapping[str, Path],
    scratch: Path,
    say: Callable[[str], None],
) -> Training:
    """Return the training of a round's student: on labelled images, refined labels, and composites of these.

    scratch: a folder for the labels of labelled images, if these are pasted too.
    """
    student = experiment.student
    detector = _student_detector(experiment, node_key("train-student", number), say)
    images = Source(_labelled(experiment, labelled, student, detector), amount=1.0)
    refined = results[node_key("refine", number)]
    composites = _composites(experiment, number, labelled, results, scratch, say)
    unlabelled = _unlabelled_sources(experiment, refined, composites, detector)
    size_key = "batch_size" if student.unlabelled_batch_size is None else "unlabelled_batch_size"
    batches = (
        StepBatch("student.batch_size", student.batch_size, (images,)),
        StepBatch(f"student.{size_key}", student.unlabelled_images, unlabelled),
    )
    return Training(
        detector=detector,
        settings=student,
        batches=tuple(batch for batch in batches if batch.size),
        start=_student_start(experiment, number, results),
        pseudo_weight=student.pseudo_weight,
        ema_momentum=student.ema_momentum,
        finetuning=FineTuning(student.finetune_iterations, student.finetune_rate)
        if student.finetune_iterations
        else None,
    )


def _student_detector(experiment: Experiment, node: str, say: Callable[[str], None]) -> Detector:
    student, teacher = experiment.student, experiment.teacher
    if student.detector is not None:
        return _detector(node, experiment.store, student.detector, student.overrides, say)
    return _detector(node, experiment.store, teacher.detector, teacher.overrides | student.overrides, say)


def _detector(node: str, store: Path, path: Path, overrides: Mapping[str, Any], say: Callable[[str], None]) -> Detector:
    """Read a detector's config, which is a program: say so for one from elsewhere, refuse one that lies in a store.

    Stores are shared, and hold such files too: anybody who can write there could have this program run theirs.
    """
    files = config_files(path)
    for file in files:
        real = file.resolve()
        if real.is_relative_to(store.resolve()) or any((each / SEAL).exists() for each in real.parents):
            raise StageError(
                f"{file}: a detector config is a program, and none is executed that lies in a store of results: copy "
                "it elsewhere and read it first"
            )
    others = [str(file) for file in files if not file.resolve().is_relative_to(shipped_configs().resolve())]
    if others:
        say(f"{node}: a detector config is a program, and is executed: {some_of(others)}")
    return read_detector(path, overrides)


def _unlabelled_sources(
    experiment: Experiment, refined: Path, composites: Mapping[str, Any] | None, detector: Detector
) -> tuple[Source, ...]:
    """Return the images with refined labels and the composites of a round, in colours that are changed strongly."""
    student = experiment.student
    colours = {"jitter": student.jitter, "grey": student.grey, "blur": student.blur}
    geometry = detector.train_transforms(student.crop_px)
    pipeline = {"pipeline": sample_pipeline(geometry, photometric=colours)}
    pseudo = _stored(experiment, refined, experiment.data.unlabelled_source.images, "pseudo")
    sources = [Source(pseudo | pipeline, student.mixture.pseudo)]
    if composites is not None and student.composites > 0:
        if experiment.augment.views:  # scaled and cropped before they are pasted into each other
            pipeline = {"geometry": geometry, "pipeline": sample_pipeline((), photometric=colours)}
        sources.append(Source({**composites, **pipeline}, student.composites))
    return tuple(sources)


def _initial_weights(experiment: Experiment) -> Start | None:
    """Return what a detector from scratch starts from, if that is not what its config says."""
    weights = experiment.teacher.init_weights
    return None if weights is None else Start(weights.absolute(), whole=False)


def _student_start(experiment: Experiment, number: int, results: Mapping[str, Path]) -> Start | None:
    student = experiment.student
    if student.start == "scratch":
        return _initial_weights(experiment)
    return Start((results[labelling_model(number)] / WEIGHTS).absolute(), whole=student.detector is None)


def _labelled(
    experiment: Experiment, labelled: Path, settings: TrainSettings, detector: Detector, anchors: int = 0
) -> dict[str, Any]:
    """Return the dataset of the labelled images. anchors: structural anchors drawn for each sample."""
    geometry = detector.train_transforms(settings.crop_px)
    return {
        "type": "s4m.LabelledImages",
        "annotations": str(labelled.absolute()),
        "image_root": str(experiment.data.labelled_source.images.absolute()),
        "repeat_threshold": settings.repeat_threshold,
        "pipeline": sample_pipeline(
            geometry, photometric=None, distortion=settings.labelled_distortion, anchors=anchors
        ),
    }


def _stored(experiment: Experiment, result: Path, image_root: Path, source: str) -> dict[str, Any]:
    student = experiment.student
    return {
        "type": "s4m.StoredLabels",
        "store": str(result.absolute() / LABELS),
        "image_root": str(image_root.absolute()),
        "source": source,
        "instance_weight": student.instance_weight,
        "ignore_dropped": student.ignore_dropped,
        **_filters_config(student),
    }


def _filters_config(student: StudentSettings) -> dict[str, Any]:
    """Return what a dataset of pseudo-labels is told of doubted classes and uncertain pixels, where these are used."""
    config: dict[str, Any] = {} if student.class_check == "off" else {"class_check": asdict(student.doubt)}
    return config | ({"uncertain_pixel_weight": student.uncertain_pixel_weight} if student.notes_uncertain else {})


def _composites(
    experiment: Experiment,
    number: int,
    labelled: Path,
    results: Mapping[str, Path],
    scratch: Path,
    say: Callable[[str], None],
) -> dict[str, Any] | None:
    """Return the dataset of composites, written before or made while training; None if the experiment has none."""
    mode, data = experiment.augment.mode, experiment.data
    if mode == "materialised":
        augmented = results.get(node_key("augment", number))
        return None if augmented is None else _stored(experiment, augmented, augmented, "composite")
    if mode == "none":
        return None
    refined = LabelledFolder.of(results[node_key("refine", number)] / LABELS, data.unlabelled_source.images)
    student, own_images = experiment.student, data.labelled_source.images
    sources = composite_sources(refined, labelled, own_images, experiment.augment, scratch, student.doubt)
    if reason := sources.nothing_to_paste():
        say(f"{node_key('train-student', number)}: {reason}")
    return {
        "type": "s4m.Composites",
        "refined_store": str(sources.refined.store_path),
        "image_root": str(sources.refined.images.root),
        "labelled_store": None if sources.labelled is None else str(sources.labelled.store_path),
        "labelled_root": None if sources.labelled is None else str(sources.labelled.images.root),
        "settings": experiment.augment.model_dump(mode="json"),
        "instance_weight": student.instance_weight,
        "ignore_dropped": student.ignore_dropped,
        **_filters_config(student),
    }
