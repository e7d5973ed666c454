"""`predict`: labels for the unlabelled images, by the teacher or from a results file of any detector."""

from __future__ import annotations

from pathlib import Path

from pipeline.coco.reading import read_coco
from pipeline.datasets.lists import every_image
from pipeline.detection.predict_work import IMAGES_PER_SHARD, DetectorChoice, PredictWork, require_same_categories
from pipeline.detection.published import read_published
from pipeline.errors import StageError
from pipeline.labels.coco_import import is_results_list, read_detections
from pipeline.labels.label_store import LabelStore
from pipeline.labels.label_writing import seal_labels, write_label_store
from pipeline.labels.summary import best_instances, count_labels
from pipeline.tables.shard_files import divide
from pipeline.workflow.graph import node_key
from stages.context import LABELS, StageContext, Summary
from stages.progress import fill_store, shards_beside


def run(context: StageContext) -> Summary:
    """Bring labels into a store; those below the score threshold or beyond the number of instances are left out."""
    sealed = context.folder / LABELS
    results = context.experiment.predict.results
    if results is None or context.node.round > 1:
        _predict(context, sealed)
    elif not sealed.exists():
        _bring_in(results, context, sealed)
    return count_labels(LabelStore.open(sealed))


def _predict(context: StageContext, sealed: Path) -> None:
    """Let the teacher, or in later rounds the last student, label the images; what was done is not done again."""
    number, compute = context.node.round, context.experiment.compute
    model = node_key("train-teacher", 1) if number == 1 else node_key("train-student", number - 1)
    folder = context.results[model]
    categories = read_published(folder).card.categories
    unlabelled = read_coco(context.unlabelled(), annotations_required=False)
    require_same_categories(folder, categories, context.unlabelled(), unlabelled.categories)
    work = predict_work(context, folder, context.unlabelled(), context.unlabelled_images(), sealed)
    fill_store(
        "predict",
        work,
        divide([image.id for image in unlabelled.images], IMAGES_PER_SHARD),
        sealed,
        compute,
        lambda plan: seal_labels(work.shards_folder, plan, sealed, categories, {"fingerprint": context.fingerprint}),
    )


def predict_work(
    context: StageContext, detector: Path, annotations: Path, image_root: Path, sealed: Path
) -> PredictWork:
    """Labels by a published detector, as many and as sure as the experiment wants pseudo-labels."""
    predict = context.experiment.predict
    return PredictWork(
        annotations=annotations.absolute(),
        image_root=image_root.absolute(),
        shards_folder=shards_beside(sealed),
        detector=DetectorChoice.of(detector, context.experiment.compute, flip=predict.flip_test),
        score_threshold=predict.score_threshold,
        max_instances=predict.max_instances,
    )


def _bring_in(results: Path, context: StageContext, sealed: Path) -> None:
    """Take the labels from a results file."""
    predict, source = context.experiment.predict, context.experiment.data.unlabelled_source
    if is_results_list(results) and source.annotations is None:
        raise StageError(
            f"predict.results: {results} names images by the ids of a dataset, and data.unlabelled is a folder, whose "
            "images have none: set data.unlabelled.annotations to the COCO file that the detector was given"
        )
    unlabelled = read_coco(context.unlabelled(), annotations_required=False)
    # The results may be of labelled images as well, as where these were unlabelled once.
    detections = read_detections(results, every_image(context.experiment.data), unlabelled.categories)
    if detections.repeated:
        context.say(f"{detections.repeated:,} instances left out: their mask and category are there already")
    labels = (
        best_instances(detections.labels(image), predict.score_threshold, predict.max_instances)
        for image in unlabelled.images
    )
    write_label_store(sealed, labels, unlabelled.categories, {"fingerprint": context.fingerprint})
