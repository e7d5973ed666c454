"""`predict`: labels for the unlabelled images, by the teacher or from a results file of any detector."""

from __future__ import annotations

from pipeline.coco.reading import read_coco
from pipeline.errors import StageError
from pipeline.labels.coco_import import read_detections
from pipeline.labels.sealing import write_store
from pipeline.labels.store import LabelStore
from pipeline.labels.summary import best_instances, count_labels
from stages.context import LABELS, StageContext, Summary


def run(context: StageContext) -> Summary:
    """Bring labels into a store; those below the score threshold or beyond the number of instances are left out."""
    predict = context.experiment.predict
    if predict.results is None or context.node.round > 1:
        raise StageError(
            "predicting with the teacher is not built yet in this version: nothing was done. "
            "Labels from elsewhere can be used: set predict.results to a COCO results file"
        )
    sealed = context.folder / LABELS
    if not sealed.exists():
        unlabelled = read_coco(context.unlabelled(), annotations_required=False)
        known = unlabelled.images
        if context.experiment.data.annotated is not None:
            # Labelled and unlabelled images are of one set, and so may the results be.
            known = (*known, *read_coco(context.labelled()).images)
        detections = read_detections(predict.results, known, unlabelled.categories)
        labels = (
            best_instances(detections.labels(image), predict.score_threshold, predict.max_instances)
            for image in unlabelled.images
        )
        write_store(sealed, labels, unlabelled.categories, {"fingerprint": context.fingerprint})
    return count_labels(LabelStore.open(sealed))
