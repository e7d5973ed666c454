"""Imports the labels of the unlabelled images from a results file of any detector; no model is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.coco.reading import read_coco
from pipeline.datasets.lists import every_image
from pipeline.datasets.settings import DataSettings
from pipeline.detection.settings import PredictSettings
from pipeline.errors import StageError
from pipeline.labels.coco_import import is_results_list, read_detections
from pipeline.labels.filling import NewStore
from pipeline.labels.label_writing import write_above_thresholds, write_label_store
from pipeline.labels.rows import ImageLabels, best_instances


def import_labels(
    results: Path,
    unlabelled: Path,
    data: DataSettings,
    settings: PredictSettings,
    store: NewStore,
) -> int:
    """Write the labels of a results file into a store; return how many repeated instances were left out.

    unlabelled: COCO file of the unlabelled images, in the order of the store. Raise StageError if the results name
    images by id and the unlabelled images have no ids.
    """
    if is_results_list(results) and data.unlabelled_source.annotations is None:
        raise StageError(
            f"predict.results: {results} names images by the ids of a dataset, and data.unlabelled is a folder, whose "
            "images have none: set data.unlabelled.annotations to the COCO file that the detector was given"
        )
    dataset = read_coco(unlabelled, annotations_required=False)
    # The results may also be of labelled images, which may have been unlabelled before.
    detections = read_detections(results, every_image(data), dataset.categories)

    def labels() -> Iterator[ImageLabels]:
        for image in dataset.images:
            yield best_instances(
                detections.labels(image), settings.least_score, settings.mask_threshold, settings.max_instances
            )

    if store.rule is None:
        write_label_store(store.path, labels(), store.categories, store.provenance)
    else:
        write_above_thresholds(labels, store.rule, store.path, store.categories, store.provenance)
    return detections.repeated
