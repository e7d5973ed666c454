"""Makes a label store with a trained detector: pseudo-labels to refine, or detections to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoCategory
from pipeline.coco.reading import read_coco
from pipeline.compute.execution import Execution
from pipeline.compute.settings import ComputeSettings
from pipeline.datasets.listing import listed_images
from pipeline.detection.predict_work import LabelledFile, PredictWork
from pipeline.detection.prediction_labels import LabelLimits
from pipeline.detection.published import DetectorChoice
from pipeline.detection.settings import PredictSettings
from pipeline.errors import StageError
from pipeline.files.writing import make_folder
from pipeline.labels.class_thresholds import ThresholdRule
from pipeline.labels.filling import NewStore, fill_label_store, shards_beside
from pipeline.tables.shard_files import divide

IMAGES_PER_SHARD = 32
LABELLED_INSTANCES: Final = "labelled-instances.npz"
"""Name of the file of labelled instances that check classes, beside the shards."""


@dataclass(frozen=True)
class ImagesToLabel:
    """Images by id, the file that lists them (see `pipeline.datasets.listing`), and the folder of their files."""

    listing: Path
    image_root: Path
    image_ids: Sequence[int]

    def file_names(self) -> list[str]:
        """Return the file names of the images."""
        listed = listed_images(self.listing)
        return [listed[image_id].file_name for image_id in self.image_ids]


@dataclass(frozen=True)
class Labeller:
    """A published detector that labels images; `settings` has its thresholds.

    measured: its detections are measured, not refined; note_uncertain: see `LabelLimits`. check: checks the classes of
    its labels.
    """

    folder: Path
    settings: PredictSettings
    measured: bool = False
    check: LabelledCheck | None = None
    note_uncertain: bool = False

    def choice(self, compute: ComputeSettings) -> DetectorChoice:
        """Return how a worker runs the detector."""
        return DetectorChoice(
            self.folder.absolute(), compute.device, compute.precision, compute.batch_images, self.settings.flip_test
        )


@dataclass(frozen=True)
class LabelledCheck:
    """Labelled images, COCO file and image folder, and how many of their instances of each class vote on a label."""

    annotations: Path
    image_root: Path
    neighbours: int


def label_images(what: str, images: ImagesToLabel, labeller: Labeller, store: NewStore, execution: Execution) -> None:
    """Make a store of a detector's labels of images; shards of an interrupted run are used again."""
    settings, detector = labeller.settings, labeller.choice(execution.settled)
    shards, check = shards_beside(store.path), None if store.path.exists() else labeller.check
    work = PredictWork(
        listing=images.listing.absolute(),
        images=ImageFolder.of(images.image_root, images.file_names()),
        shards_folder=shards,
        detector=detector,
        limits=LabelLimits(
            settings.least_score,
            settings.max_instances,
            settings.mask_threshold,
            labeller.measured,
            labeller.note_uncertain,
        ),
        checked_by=None if check is None else _labelled_file(detector, check, shards, execution),
    )
    fill_label_store(what, work, divide(images.image_ids, IMAGES_PER_SHARD), store, execution)


def _labelled_file(
    detector: DetectorChoice, check: LabelledCheck, shards_folder: Path, execution: Execution
) -> LabelledFile:
    """Write the labelled instances with their features beside the shards, unless an interrupted run did."""
    path = shards_folder / LABELLED_INSTANCES
    if not path.exists():
        from pipeline.detection.class_neighbours import labelled_instances

        make_folder(shards_folder)
        labelled_instances(detector, read_coco(check.annotations), check.image_root, execution.say).write(path)
    return LabelledFile(path, check.neighbours)


def threshold_rule(settings: PredictSettings, labelled: Path) -> ThresholdRule | None:
    """Return what the thresholds of classes are chosen by; None with a fixed one. labelled: COCO file."""
    if settings.threshold == "fixed":
        return None
    return ThresholdRule.of_labelled(read_coco(labelled), settings.lowest_threshold, settings.highest_threshold)


def require_same_categories(
    folder: Path, of_model: Sequence[CocoCategory], annotations: Path, of_images: Sequence[CocoCategory]
) -> None:
    """Raise StageError unless a model and a dataset have the same categories, by ids and names."""
    model, images = (
        ", ".join(f"{id_} {name}" for id_, name in sorted((each.id, each.name) for each in categories))
        for categories in (of_model, of_images)
    )
    if model != images:
        raise StageError(
            f"{folder}: the model's categories are not those of {annotations}. The model's: {model}. "
            f"The file's: {images}. Use the same ids and names in both, and train again if the model's are wrong"
        )
