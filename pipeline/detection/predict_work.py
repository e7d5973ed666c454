"""The work of predicting on a shard of images, and how a worker runs the detector. Imports torch in workers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.coco.image_folder import ImageFolder
from pipeline.coco.model import CocoImage
from pipeline.compute.ahead import read_ahead
from pipeline.compute.shards import Shard, ShardReport
from pipeline.compute.worker_check import WorkPaths
from pipeline.datasets.listing import listed_images
from pipeline.detection.prediction_labels import LabelLimits, labels_of_image
from pipeline.detection.published import WEIGHTS, DetectorChoice
from pipeline.errors import ImageError
from pipeline.labels.label_writing import write_label_shard
from pipeline.labels.rows import ImageLabels, Status

if TYPE_CHECKING:
    from pipeline.detection.predictor import Predictor


@dataclass(frozen=True)
class LabelledFile:
    """A file of labelled instances with their features, and how many of each class vote on a label."""

    path: Path
    neighbours: int


@dataclass(frozen=True)
class PredictWork:
    """A detector's labels of images, shard by shard (see `pipeline.compute.shards.ShardWork`).

    listing: the file that lists the images (see `pipeline.datasets.listing`). limits: which predictions become labels.
    checked_by: labelled instances that vote on the classes of labels; None: nothing is said about classes.
    """

    listing: Path
    images: ImageFolder
    shards_folder: Path
    detector: DetectorChoice
    limits: LabelLimits
    checked_by: LabelledFile | None = None

    def compute(self, shard: Shard) -> list[ImageLabels]:
        """Return the labels of the images of a shard. Images are read while the detector runs on others."""
        import pipeline.detection.registered  # noqa: F401  before any other import of MMDetection, which it silences
        from pipeline.detection.predictor import build_predictor

        listed = listed_images(self.listing)
        predictor = build_predictor(self.detector)
        rows: list[ImageLabels] = []
        images = [listed[image_id] for image_id in shard.image_ids]
        for batch in read_ahead(images, self.detector.batch_images, self._with_pixels):
            rows += self._predicted(batch, predictor)
        return rows

    def publish(self, shard: Shard, rows: Sequence[ImageLabels]) -> ShardReport:
        """Write the shard."""
        write_label_shard(self.shards_folder, shard.index, rows)
        failures = {row.file_name: row.message for row in rows if row.status is Status.FAILED}
        return ShardReport(len(rows), {"instances": sum(len(row.instances) for row in rows)}, failures)

    @property
    def paths(self) -> WorkPaths:
        """Return the paths that every worker must see."""
        needed = [self.listing, self.images.root, self.detector.folder / WEIGHTS]
        if self.checked_by is not None:
            needed.append(self.checked_by.path)
        return WorkPaths(tuple(needed), self.shards_folder)

    def given_up(self, image_id: int, reason: str) -> ImageLabels:
        """Return the row of an image that kills its workers."""
        return _failure(listed_images(self.listing)[image_id], reason)

    def _with_pixels(self, image: CocoImage) -> tuple[CocoImage, NDArray[np.uint8] | str]:
        """Return an image with its RGB pixels, or with the reason why it cannot be read."""
        try:
            size = (image.width, image.height) if image.width else None
            return image, self.images.read(image.file_name, size)
        except ImageError as error:
            return image, str(error)

    def _predicted(
        self, batch: Sequence[tuple[CocoImage, NDArray[np.uint8] | str]], predictor: Predictor
    ) -> list[ImageLabels]:
        """Return the rows of a batch, in its order."""
        images = [pixels for _, pixels in batch if not isinstance(pixels, str)]
        # Merging with the mirror image changes scores: before it no instance is left out.
        found = iter(
            predictor.predict_twice(images)
            if self.detector.flip
            else predictor.predict(images, self.limits.score_threshold)
        )
        return [
            _failure(image, pixels)
            if isinstance(pixels, str)
            else self._checked(
                labels_of_image(_with_size_of(image, pixels), next(found), predictor.categories, self.limits),
                pixels,
                predictor,
            )
            for image, pixels in batch
        ]

    def _checked(self, labels: ImageLabels, pixels: NDArray[np.uint8], predictor: Predictor) -> ImageLabels:
        """Return labels with the votes of labelled instances on their classes, if these are checked."""
        if self.checked_by is None or not labels.instances:
            return labels
        from pipeline.detection.class_neighbours import mask_features, open_neighbours

        features = mask_features(predictor, pixels, [labels.rle(each) for each in labels.instances])
        joined = np.array([np.concatenate(levels) for levels in features], np.float32)
        return open_neighbours(self.checked_by.path, self.checked_by.neighbours).voted(labels, joined)


def _with_size_of(image: CocoImage, pixels: NDArray[np.uint8]) -> CocoImage:
    """Return the image with the size of its pixels, which a list of names does not know."""
    height, width = pixels.shape[:2]
    return CocoImage(image.id, image.file_name, width, height)


def _failure(image: CocoImage, reason: str) -> ImageLabels:
    return ImageLabels.of_failure(image.id, image.file_name, reason, image.width, image.height)
