"""`predict`: label the unlabelled images with the teacher, or import a results file of any detector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.coco.model import CocoCategory, CocoDataset
from pipeline.coco.reading import read_coco
from pipeline.detection.imported_labels import import_labels
from pipeline.detection.predicting import (
    ImagesToLabel,
    LabelledCheck,
    Labeller,
    label_images,
    require_same_categories,
    threshold_rule,
)
from pipeline.detection.published import read_published
from pipeline.labels.class_thresholds import thresholds_in_words
from pipeline.labels.filling import NewStore
from pipeline.labels.label_store import LabelStore
from pipeline.workflow.graph import labelling_model
from pipeline.workflow.result_files import LABELS
from stages.context import StageContext, Summary


def run(context: StageContext) -> Summary:
    """Write labels into a store, without those below the score thresholds or beyond the number of instances."""
    sealed = context.folder / LABELS
    results = context.experiment.predict.results
    unlabelled = read_coco(context.unlabelled(), annotations_required=False)
    if results is None or context.node.round > 1:
        _predict(context, unlabelled)
    elif not sealed.exists():
        settings, store = context.experiment.predict, _store(context, unlabelled.categories)
        repeated = import_labels(results, context.unlabelled(), context.experiment.data, settings, store)
        if repeated:
            context.say(f"{repeated:,} instances left out: the file has their mask and category more than once")
    made = LabelStore.open(sealed)
    thresholds = thresholds_in_words(made.attributes.provenance, made.categories)
    figures = made.counts() | ({"thresholds": thresholds} if thresholds else {})
    doubt = context.experiment.student.doubt
    if doubt.action != "off":
        figures["doubted classes"] = int((made.class_doubts() >= np.float32(doubt.min_agreement)).sum())
    return figures


def _store(context: StageContext, categories: Sequence[CocoCategory]) -> NewStore:
    rule = threshold_rule(context.experiment.predict, context.labelled())
    return NewStore(context.folder / LABELS, categories, context.provenance, rule)


def _check(context: StageContext) -> LabelledCheck | None:
    student = context.experiment.student
    if student.class_check == "off":
        return None
    return LabelledCheck(context.labelled(), context.labelled_images(), student.class_neighbours)


def _predict(context: StageContext, unlabelled: CocoDataset) -> None:
    folder = context.results[labelling_model(context.node.round)]
    categories = read_published(folder).card.categories
    require_same_categories(folder, categories, context.unlabelled(), unlabelled.categories)
    label_images(
        "predict",
        ImagesToLabel(context.unlabelled(), context.unlabelled_images(), [image.id for image in unlabelled.images]),
        Labeller(
            folder,
            context.experiment.predict,
            check=_check(context),
            note_uncertain=context.experiment.student.notes_uncertain,
        ),
        _store(context, categories),
        context.execution,
    )
