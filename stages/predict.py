"""`predict`: labels for the unlabelled images, by the teacher or from a results file of any detector."""

from __future__ import annotations

from pipeline.coco.reading import read_coco
from pipeline.detection.imported_labels import import_labels
from pipeline.detection.predicting import ImagesToLabel, PseudoLabeller, label_images, require_same_categories
from pipeline.detection.published import read_published
from pipeline.labels.filling import NewStore
from pipeline.labels.label_store import LabelStore
from pipeline.labels.summary import count_labels
from pipeline.workflow.graph import labelling_model
from pipeline.workflow.result_files import LABELS
from stages.context import StageContext, Summary


def run(context: StageContext) -> Summary:
    """Write labels into a store; those below the score threshold or beyond the number of instances are left out."""
    sealed = context.folder / LABELS
    results = context.experiment.predict.results
    if results is None or context.node.round > 1:
        _predict(context)
    elif not sealed.exists():
        settings = context.experiment.predict
        repeated = import_labels(
            results, context.unlabelled(), context.experiment.data, settings, sealed, context.provenance
        )
        if repeated:
            context.say(f"{repeated:,} instances left out: the file has their mask and category more than once")
    return count_labels(LabelStore.open(sealed))


def _predict(context: StageContext) -> None:
    folder = context.results[labelling_model(context.node.round)]
    categories = read_published(folder).card.categories
    unlabelled = read_coco(context.unlabelled(), annotations_required=False)
    require_same_categories(folder, categories, context.unlabelled(), unlabelled.categories)
    label_images(
        "predict",
        ImagesToLabel(context.unlabelled(), context.unlabelled_images(), [image.id for image in unlabelled.images]),
        PseudoLabeller(folder, context.experiment.predict),
        NewStore(context.folder / LABELS, categories, context.provenance),
        context.execution,
    )
