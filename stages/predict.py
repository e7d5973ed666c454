"""`predict`: labels for the unlabelled images, by the teacher or from a results file of any detector."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.coco.reading import read_coco
from pipeline.detection.predict_job import IMAGES_PER_SHARD, DetectorChoice, PredictWork, require_same_categories
from pipeline.detection.published import read_published
from pipeline.graph import node_key
from pipeline.labels.coco_import import read_detections
from pipeline.labels.sealing import seal, write_store
from pipeline.labels.shards import completed_shards, divide
from pipeline.labels.store import LabelStore
from pipeline.labels.summary import best_instances, count_labels
from stages.context import LABELS, StageContext, Summary
from stages.progress import run_missing


def run(context: StageContext) -> Summary:
    """Bring labels into a store; those below the score threshold or beyond the number of instances are left out."""
    sealed = context.folder / LABELS
    results = context.experiment.predict.results
    if not sealed.exists():
        if results is not None and context.node.round == 1:
            _bring_in(results, context, sealed)
        else:
            _predict(context, sealed)
    shutil.rmtree(_shards(sealed), ignore_errors=True)
    return count_labels(LabelStore.open(sealed))


def _predict(context: StageContext, sealed: Path) -> None:
    """Let the teacher, or in later rounds the last student, label the images; what was done is not done again."""
    number, predict, compute = context.node.round, context.experiment.predict, context.experiment.compute
    model = node_key("train-teacher", 1) if number == 1 else node_key("train-student", number - 1)
    folder = context.results[model]
    categories = read_published(folder).card.categories
    unlabelled = read_coco(context.unlabelled(), annotations_required=False)
    require_same_categories(folder, categories, context.unlabelled(), unlabelled.categories)
    work = PredictWork(
        annotations=context.unlabelled().absolute(),
        image_root=context.unlabelled_images().absolute(),
        shards_folder=_shards(sealed).absolute(),
        detector=DetectorChoice.of(folder, compute, flip=predict.flip_test),
        score_threshold=predict.score_threshold,
        max_instances=predict.max_instances,
    )
    plan = divide([image.id for image in unlabelled.images], IMAGES_PER_SHARD)
    run_missing("predict", work, plan, completed_shards(work.shards_folder, plan), compute)
    seal(work.shards_folder, plan, sealed, categories, {"fingerprint": context.fingerprint})


def _bring_in(results: Path, context: StageContext, sealed: Path) -> None:
    """Take the labels from a results file."""
    predict = context.experiment.predict
    unlabelled = read_coco(context.unlabelled(), annotations_required=False)
    known = unlabelled.images
    if context.experiment.data.annotated is not None:
        # Labelled and unlabelled images are of one set, and so may the results be.
        known = (*known, *read_coco(context.labelled()).images)
    detections = read_detections(results, known, unlabelled.categories)
    labels = (
        best_instances(detections.labels(image), predict.score_threshold, predict.max_instances)
        for image in unlabelled.images
    )
    write_store(sealed, labels, unlabelled.categories, {"fingerprint": context.fingerprint})


def _shards(sealed: Path) -> Path:
    return sealed.with_name("shards")
