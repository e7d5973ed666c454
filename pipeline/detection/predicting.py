"""Makes label stores with a trained detector: pseudo-labels to refine, or detections to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.coco.model import CocoCategory
from pipeline.compute.execution import Execution
from pipeline.compute.settings import ComputeSettings
from pipeline.detection.detector_choice import DetectorChoice
from pipeline.detection.predict_work import PredictWork
from pipeline.detection.settings import PredictSettings
from pipeline.errors import StageError
from pipeline.labels.filling import NewStore, fill_label_store, shards_beside
from pipeline.tables.shard_files import divide

IMAGES_PER_SHARD = 32


@dataclass(frozen=True)
class ImagesToLabel:
    """Images by id out of a COCO file, and the folder that their file names start from."""

    annotations: Path
    image_root: Path
    image_ids: Sequence[int]


@dataclass(frozen=True)
class PseudoLabeller:
    """A published detector whose labels are refined afterwards; `settings` has its thresholds."""

    folder: Path
    settings: PredictSettings

    def work(self, images: ImagesToLabel, shards_folder: Path, compute: ComputeSettings) -> PredictWork:
        """Return the work that writes labels into a folder of shards."""
        return PredictWork(
            annotations=images.annotations.absolute(),
            image_root=images.image_root.absolute(),
            shards_folder=shards_folder,
            detector=DetectorChoice.of(self.folder, compute, flip=self.settings.flip_test),
            score_threshold=self.settings.score_threshold,
            max_instances=self.settings.max_instances,
        )


@dataclass(frozen=True)
class MeasuredDetector:
    """A published detector whose detections are measured: at any score, at most so many per image."""

    folder: Path
    max_detections: int

    def work(self, images: ImagesToLabel, shards_folder: Path, compute: ComputeSettings) -> PredictWork:
        """Return the work that writes detections into a folder of shards."""
        return PredictWork(
            annotations=images.annotations.absolute(),
            image_root=images.image_root.absolute(),
            shards_folder=shards_folder,
            detector=DetectorChoice.of(self.folder, compute),
            score_threshold=0.0,
            max_instances=self.max_detections,
            measured=True,
        )


def label_images(
    what: str,
    images: ImagesToLabel,
    detector: PseudoLabeller | MeasuredDetector,
    store: NewStore,
    execution: Execution,
) -> None:
    """Make a store of a detector's labels of images; shards of an interrupted run are used again."""
    work = detector.work(images, shards_beside(store.path), execution.compute)
    fill_label_store(what, work, divide(images.image_ids, IMAGES_PER_SHARD), store, execution)


def require_same_categories(
    folder: Path, of_model: Sequence[CocoCategory], annotations: Path, of_images: Sequence[CocoCategory]
) -> None:
    """Raise StageError unless a model knows the categories of a dataset by the same ids and names."""
    model, images = (", ".join(f"{id_} {name}" for id_, name in _names(each)) for each in (of_model, of_images))
    if model != images:
        raise StageError(
            f"{folder}: the model's categories are not those of {annotations}. The model's: {model}. "
            f"The file's: {images}. Use the same ids and names in both, and train again where the model's are wrong"
        )


def _names(categories: Sequence[CocoCategory]) -> list[tuple[int, str]]:
    return sorted((category.id, category.name) for category in categories)
